"""Requests and responses that all tasks share."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from resonnx_proto.v1 import manifest_pb2, vision_pb2

from resonnx._results import (
    Assumption,
    BatchLatency,
    Limits,
    ModelInfo,
    ModelSummary,
    PictureSettings,
    SessionInfo,
    TensorInfo,
    Timing,
)

_M = TypeVar("_M", bound=Message)


def message(kind: type[_M], fields: Mapping[str, Any]) -> _M:
    """Build a message; a TypeError or ValueError for a field's value names the field."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        # protobuf's error does not name the field.
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
        raise


def timeout_us(answer_within_s: float | None) -> int | None:
    """Return the field `timeout_us` of a request; raises ValueError unless the time is positive and finite."""
    if answer_within_s is None:
        return None
    if not 0 < answer_within_s < math.inf:
        raise ValueError(f"answer_within_s must be a number over 0, got {answer_within_s}")
    # Rounded up: 0 would mean no limit.
    return math.ceil(answer_within_s * 1e6)


def timing(timing: vision_pb2.Timing) -> Timing:
    """Read a response's timing."""
    return Timing(timing.decode_us / 1e6, timing.queue_us / 1e6, timing.compute_us / 1e6, timing.batch_size)


def named_version(model: str, version: int | str | None) -> tuple[str, int, str]:
    """Return name, version number and label of the model that a call names; 0 and "" if it names none.

    The part of `model` after its last colon, or else `version`, is a number or a label.

    Raises:
        ValueError: Both name a version, or a part is empty.
    """
    name, colon, suffix = model.rpartition(":")
    if not colon:
        name, given = model, version
    elif version is not None:
        raise ValueError(f"model {model!r} names a version, and version is {version!r}: give one of them")
    elif not name or not suffix:
        raise ValueError(f"model {model!r}: give NAME, NAME:VERSION or NAME:LABEL")
    else:
        given = suffix
    if isinstance(given, str):
        return (name, int(given), "") if given.isdecimal() else (name, 0, given)
    return name, given or 0, ""


def model_fields(model: str, version: int | str | None) -> dict[str, Any]:
    """Return the fields of a request that name a model; raises ValueError as `named_version`."""
    name, number, label = named_version(model, version)
    return {"model": name, "version": number, "version_label": label}


def model_request(name: str, version: int | str | None) -> vision_pb2.GetModelRequest:
    """Build a request; raises ValueError if the version is out of range, or given twice."""
    return message(vision_pb2.GetModelRequest, model_fields(name, version))


def model_summaries(response: vision_pb2.ListModelsResponse) -> tuple[ModelSummary, ...]:
    """Read the server's list, in its order."""
    return tuple(_summary(model) for model in response.models)


def model_info(response: vision_pb2.GetModelResponse) -> ModelInfo:
    """Read the description of a model."""
    manifest = response.manifest if response.HasField("manifest") else None
    return ModelInfo(
        summary=_summary(response.summary),
        manifest=manifest,
        sessions=tuple(_session(session) for session in response.sessions),
        identity=response.identity,
        verified=response.verified,
        limits=Limits(response.max_batch_size, response.max_queue_size, response.max_message_bytes),
        pictures=_picture_settings(response.pictures) if response.HasField("pictures") else None,
        verified_against=_verified_against(manifest) if manifest else "",
        assumptions=tuple(_assumption(each) for each in manifest.assumptions) if manifest else (),
        inputs=tuple(_tensor(tensor) for tensor in response.inputs),
        outputs=tuple(_tensor(tensor) for tensor in response.outputs),
    )


def _verified_against(manifest: manifest_pb2.Manifest) -> str:
    # Older manifests do not say it: their exporters knew nothing else.
    reference = manifest.verified_against or manifest_pb2.REFERENCE_OUR_READING
    return _enum_name(manifest_pb2.Reference, reference, "REFERENCE_")


def _assumption(each: manifest_pb2.Assumption) -> Assumption:
    return Assumption(each.name, each.value, each.option, tuple(each.alternatives), each.confirmed)


def _tensor(tensor: vision_pb2.TensorInfo) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape), tensor.optional)


def _picture_settings(pictures: vision_pb2.PictureSettings) -> PictureSettings:
    applied = pictures.exif_orientation == manifest_pb2.ImageInput.EXIF_ORIENTATION_APPLY
    return PictureSettings(
        exif_orientation="apply" if applied else "ignore",
        jpeg_scaling=pictures.jpeg_scaling,
        formats=tuple(pictures.formats),
        max_image_pixels=pictures.max_image_pixels,
        max_image_side=pictures.max_image_side,
    )


def _summary(model: vision_pb2.ModelSummary) -> ModelSummary:
    return ModelSummary(
        model.name,
        model.version,
        task=_enum_name(manifest_pb2.Task, model.task, "TASK_"),
        state=_enum_name(vision_pb2.ModelState, model.state, "MODEL_STATE_"),
        reason=model.reason,
        labels=tuple(model.labels),
        is_default=model.is_default,
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
    # Proto3 enums are open: a newer server's value may have no name here.
    return enum.Name(value).removeprefix(prefix).lower() if value in enum.values() else str(value)
