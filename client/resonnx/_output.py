"""What the command line says of a result: lines for people, objects for --json. Prints nothing."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict

from resonnx._errors import ResonnxError
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary


def result_lines(result: Classification | CaptionResult) -> list[str]:
    """A picture's labels or captions with their scores; a single caption stands alone."""
    if isinstance(result, CaptionResult):
        if len(result.captions) == 1:
            return [result.captions[0].text]
        return table((caption.text, f"{caption.score:.2f}") for caption in result.captions)
    return table((p.label, f"{p.score:.2f}") for p in result.predictions)


def result_json(image: str, result: Classification | CaptionResult) -> dict[str, Any]:
    """A picture's object."""
    answer: dict[str, Any]
    if isinstance(result, CaptionResult):
        captions = [{"text": c.text, "log_prob": c.log_prob, "score": c.score} for c in result.captions]
        answer = {"captions": captions} | ({} if result.seed is None else {"seed": result.seed})
    else:
        answer = {"predictions": [asdict(prediction) for prediction in result.predictions]}
    return {"image": image, "model": result.model, "version": result.version, **answer}


def error_line(error: ResonnxError, server: str) -> str:
    """One line for people; names the server where it is what failed."""
    message = " ".join(error.message.split())
    match error.code:
        case "UNAVAILABLE":
            return f"server {server} is not available: {message}"
        case "DEADLINE_EXCEEDED":
            return f"no answer from {server} in time: {message}"
        case _:
            return message


def error_json(error: ResonnxError) -> dict[str, str]:
    """What stands under "error"."""
    return {"code": error.code, "reason": error.reason, "message": error.message}


def models_lines(models: Iterable[tuple[ModelSummary, ModelInfo | None]]) -> list[str]:
    """The table of models; those that are not served have no details."""
    rows = [("NAME", "VERSION", "TASK", "STATE", "PROVIDER", "VERIFIED")]
    for summary, info in models:
        provider, verified = (_providers(info), _yes_no(info.verified)) if info else ("-", "-")
        state = f"{summary.state}: {summary.reason}" if summary.reason else summary.state
        rows.append((summary.name, str(summary.version), summary.task, state, provider, verified))
    return table(rows)


def model_row_json(summary: ModelSummary, info: ModelInfo | None) -> dict[str, Any]:
    """One model's row of the list."""
    return {
        **asdict(summary),
        "provider": _providers(info) if info else None,
        "verified": info.verified if info else None,
    }


def model_lines(info: ModelInfo) -> list[str]:
    """All about one model."""
    summary, limits = info.summary, info.limits
    rows = [
        ("name", summary.name),
        ("version", str(summary.version)),
        ("task", summary.task),
        ("state", f"{summary.state}: {summary.reason}" if summary.reason else summary.state),
        ("verified", _yes_no(info.verified)),
        ("identity", info.identity or "-"),
        (
            "limits",
            f"batch {limits.max_batch_size}, queue {limits.max_queue_size}, "
            f"message {limits.max_message_bytes / 2**20:g} MiB",
        ),
    ]
    if pictures := info.pictures:
        rows.append(
            (
                "pictures",
                f"{', '.join(pictures.formats)} up to {pictures.max_image_pixels / 1e6:.0f} megapixels, "
                f"EXIF orientation {'applied' if pictures.exif_orientation == 'apply' else 'ignored'}",
            )
        )
    if info.manifest:
        source, size = info.manifest.source, info.manifest.input
        rows.append(("source", f"{source.architecture} ({source.layout})"))
        rows.append(("input", f"{size.width}x{size.height}"))
        if info.manifest.HasField("classifier"):
            rows.append(("labels", str(len(info.manifest.classifier.labels))))
        if info.manifest.HasField("captioner"):
            rows.append(("words", str(len(info.manifest.captioner.vocabulary))))
    for session in info.sessions:
        latencies = ", ".join(f"{x.batch_size}: {x.expected_s * 1e3:.1f} ms" for x in session.latencies)
        at_once = f"{session.instances} at once" if session.instances > 1 else "one at a time"
        rows.append((session.file, f"{session.provider} {session.precision}, {at_once}, batches {latencies}"))
    return table(rows)


def model_json(info: ModelInfo) -> dict[str, Any]:
    """All about one model; the manifest as it stands in the model repository."""
    return {
        **asdict(info.summary),
        "verified": info.verified,
        "identity": info.identity,
        "limits": asdict(info.limits),
        "pictures": asdict(info.pictures) if info.pictures else None,
        "sessions": [asdict(session) for session in info.sessions],
        "manifest": MessageToDict(info.manifest) if info.manifest else None,
    }


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Pad every column but the last to its widest cell, two spaces between."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _providers(info: ModelInfo) -> str:
    # A captioner's two files may run on different providers.
    return ", ".join(dict.fromkeys(session.provider for session in info.sessions)) or "-"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
