"""Captioners: requests and results on the wire, results as text, calls of the load generator."""

from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2, vision_pb2

from resonnx import _rpcs
from resonnx._caption_options import CaptionOptions
from resonnx._messages import message, model_fields, timeout_us, timing
from resonnx._results import Caption, CaptionResult, Word
from resonnx._table import table
from resonnx._tasks.task import Task


def caption_request(
    image: vision_pb2.Image,
    model: str,
    *,
    version: int | str | None,
    priority: int | None,
    answer_within_s: float | None,
    options: CaptionOptions,
) -> vision_pb2.CaptionRequest:
    """Build a request.

    Raises:
        TypeError: An option is unknown.
        ValueError: A number is out of its field's range, `answer_within_s` is not positive, or a version is
            given twice.
    """
    if unknown := sorted(options.keys() - CaptionOptions.__annotations__.keys()):
        raise TypeError(f"there is no option {unknown[0]!r}")
    fields: dict[str, Any] = dict(options)
    fields["return_attention"] = fields.pop("attention", False)
    if (rule := fields.pop("length_normalization", None)) is not None:
        fields["length_normalization"] = f"LENGTH_NORMALIZATION_{rule.upper()}"
    fields |= model_fields(model, version) | {
        "image": image,
        "priority": priority,
        "timeout_us": timeout_us(answer_within_s),
    }
    return message(vision_pb2.CaptionRequest, fields)


def caption_result(response: vision_pb2.CaptionResponse) -> CaptionResult:
    """Read a response."""
    return CaptionResult(
        model=response.model,
        version=response.version,
        captions=tuple(
            Caption(c.text, c.log_prob, tuple(_word(word) for word in c.words), c.score) for c in response.captions
        ),
        timing=timing(response.timing),
        seed=response.seed if response.HasField("seed") else None,
        attention_grid=(response.attention_rows, response.attention_columns),
    )


def caption_event(event: vision_pb2.StreamCaptionResponse) -> Word | CaptionResult:
    """Read one message of a StreamCaption."""
    return _word(event.word) if event.HasField("word") else caption_result(event.final)


def _word(word: vision_pb2.Word) -> Word:
    return Word(word.text, word.token, word.log_prob, tuple(word.attention))


def _lines(result: CaptionResult) -> list[str]:
    if len(result.captions) == 1:
        return [result.captions[0].text]
    return table((caption.text, f"{caption.score:.2f}") for caption in result.captions)


def _json(result: CaptionResult) -> dict[str, Any]:
    captions = [{"text": c.text, "log_prob": c.log_prob, "score": c.score} for c in result.captions]
    return {"captions": captions} | ({} if result.seed is None else {"seed": result.seed})


def _rows(manifest: manifest_pb2.Manifest) -> list[tuple[str, str]]:
    return [("words", str(len(manifest.captioner.vocabulary)))]


CAPTION: Final = Task(
    "caption",
    "captioner",
    result_lines=_lines,
    result_json=_json,
    manifest_rows=_rows,
    path=_rpcs.CAPTION.path,
    request=lambda model, image: vision_pb2.CaptionRequest(**model_fields(model, None), image=image),
)
