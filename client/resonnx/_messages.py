"""Requests from arguments, results from responses: what both clients say on the wire. No I/O."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from resonnx_proto.v1 import manifest_pb2, vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._results import (
    BatchLatency,
    Caption,
    CaptionResult,
    Classification,
    Limits,
    ModelInfo,
    ModelSummary,
    PictureSettings,
    Prediction,
    SessionInfo,
    Timing,
    Word,
)

_M = TypeVar("_M", bound=Message)


def classify_request(
    image: vision_pb2.Image,
    model: str,
    *,
    version: int | None,
    top_k: int,
    features: bool,
    priority: int | None = None,
    answer_within_s: float | None = None,
    id: str = "",
) -> vision_pb2.ClassifyRequest:
    """Build one request; raises ValueError for numbers that the wire cannot hold, or a limit that is not over 0."""
    fields = {
        "model": model,
        "version": version or 0,
        "image": image,
        "top_k": top_k,
        "return_features": features,
        "id": id,
        "priority": priority,
        "timeout_us": _timeout_us(answer_within_s),
    }
    return _message(vision_pb2.ClassifyRequest, fields)


def caption_request(
    image: vision_pb2.Image,
    model: str,
    *,
    version: int | None,
    priority: int | None,
    answer_within_s: float | None,
    options: CaptionOptions,
) -> vision_pb2.CaptionRequest:
    """Build one request; raises as `classify_request` does, and TypeError for an option that there is not."""
    if unknown := sorted(options.keys() - CaptionOptions.__annotations__.keys()):
        raise TypeError(f"there is no option {unknown[0]!r}")
    fields: dict[str, Any] = dict(options)
    fields["return_attention"] = fields.pop("attention", False)
    if (rule := fields.pop("length_normalization", None)) is not None:
        fields["length_normalization"] = f"LENGTH_NORMALIZATION_{rule.upper()}"
    fields |= {
        "model": model,
        "version": version or 0,
        "image": image,
        "priority": priority,
        "timeout_us": _timeout_us(answer_within_s),
    }
    return _message(vision_pb2.CaptionRequest, fields)


def model_request(name: str, version: int | None) -> vision_pb2.GetModelRequest:
    """Build one request."""
    return _message(vision_pb2.GetModelRequest, {"model": name, "version": version or 0})


def _message(kind: type[_M], fields: Mapping[str, Any]) -> _M:
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        # The error does not say which field it was.
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
        raise


def classification(response: vision_pb2.ClassifyResponse, *, features: bool) -> Classification:
    """Read one answer; `features` as in the request."""
    return Classification(
        model=response.model,
        version=response.version,
        predictions=tuple(Prediction(p.label, p.index, p.score) for p in response.predictions),
        features=tuple(response.features) if features else None,
        timing=_timing(response.timing),
    )


def caption_result(response: vision_pb2.CaptionResponse) -> CaptionResult:
    """Read one answer."""
    return CaptionResult(
        model=response.model,
        version=response.version,
        captions=tuple(
            Caption(c.text, c.log_prob, tuple(_word(word) for word in c.words), c.score) for c in response.captions
        ),
        timing=_timing(response.timing),
        seed=response.seed if response.HasField("seed") else None,
        attention_grid=(response.attention_rows, response.attention_columns),
    )


def caption_event(event: vision_pb2.StreamCaptionResponse) -> Word | CaptionResult:
    """Read one message of a StreamCaption."""
    return _word(event.word) if event.HasField("word") else caption_result(event.final)


def model_summaries(response: vision_pb2.ListModelsResponse) -> tuple[ModelSummary, ...]:
    """Read the server's list, in its order."""
    return tuple(_summary(model) for model in response.models)


def model_info(response: vision_pb2.GetModelResponse) -> ModelInfo:
    """Read one answer."""
    return ModelInfo(
        summary=_summary(response.summary),
        manifest=response.manifest if response.HasField("manifest") else None,
        sessions=tuple(_session(session) for session in response.sessions),
        identity=response.identity,
        verified=response.verified,
        limits=Limits(response.max_batch_size, response.max_queue_size, response.max_message_bytes),
        pictures=_picture_settings(response.pictures) if response.HasField("pictures") else None,
    )


def _picture_settings(pictures: vision_pb2.PictureSettings) -> PictureSettings:
    applied = pictures.exif_orientation == manifest_pb2.ImageInput.EXIF_ORIENTATION_APPLY
    return PictureSettings(
        exif_orientation="apply" if applied else "ignore",
        jpeg_scaling=pictures.jpeg_scaling,
        formats=tuple(pictures.formats),
        max_image_pixels=pictures.max_image_pixels,
        max_image_side=pictures.max_image_side,
    )


def _timeout_us(answer_within_s: float | None) -> int | None:
    if answer_within_s is None:
        return None
    if not 0 < answer_within_s < math.inf:
        raise ValueError(f"answer_within_s must be a number over 0, got {answer_within_s}")
    # Not rounded down: 0 would be no limit.
    return math.ceil(answer_within_s * 1e6)


def _timing(timing: vision_pb2.Timing) -> Timing:
    return Timing(timing.decode_us / 1e6, timing.queue_us / 1e6, timing.compute_us / 1e6, timing.batch_size)


def _word(word: vision_pb2.Word) -> Word:
    return Word(word.text, word.token, word.log_prob, tuple(word.attention))


def _summary(model: vision_pb2.ModelSummary) -> ModelSummary:
    return ModelSummary(
        model.name,
        model.version,
        task=_enum_name(manifest_pb2.Task, model.task, "TASK_"),
        state=_enum_name(vision_pb2.ModelState, model.state, "MODEL_STATE_"),
        reason=model.reason,
    )


def _session(session: vision_pb2.SessionInfo) -> SessionInfo:
    return SessionInfo(
        session.file,
        session.provider,
        precision=_enum_name(manifest_pb2.Precision, session.precision, "PRECISION_"),
        latencies=tuple(BatchLatency(x.batch_size, x.expected_us / 1e6, x.spread_us / 1e6) for x in session.latencies),
        instances=session.instances,
    )


def _enum_name(enum: EnumTypeWrapper, value: int, prefix: str) -> str:
    # Proto3 enums are open: a newer server's value has no name here.
    return enum.Name(value).removeprefix(prefix).lower() if value in enum.values() else str(value)
