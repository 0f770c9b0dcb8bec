"""Formats errors and models as lines of text and as JSON objects."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from resonnx._errors import ResonnxError
from resonnx._results import ModelInfo, ModelSummary, TensorInfo
from resonnx._table import table
from resonnx._tasks import task_of
from resonnx._tasks.task import Task

# By ModelInfo.verified_against.
_REFERENCES: Final = {
    "our_reading": "the exporter's reading of the checkpoint",
    "user_answers": "the user's answers",
    "user_code": "the user's code",
}

# The options that answer a refusal, by the error's reason.
_ACCESS_OPTIONS: Final = {
    "KEY_MISSING": "--key-file FILE or RESONNX_KEY gives it",
    "KEY_UNKNOWN": "it is that of --key-file, --key or RESONNX_KEY",
    "ADMIN_PORT_ONLY": "--server names its address",
    "ROLE_MISSING": "--key-file, --key or RESONNX_KEY gives it",
    "CERTIFICATE_MISSING": "--cert FILE and --client-key FILE give it",
    "CERTIFICATE_UNKNOWN": "--key-file FILE or RESONNX_KEY gives a key",
}
# The options that answer a failed connection, by part of gRPC's message.
_TLS_OPTIONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "--ca FILE names the authority of the server's certificate",
    "WRONG_VERSION_NUMBER": "this port does not use TLS: leave out --tls, --ca and --cert",
    "Socket closed": "if it uses TLS, give --ca FILE or --tls; if it asks for a certificate, --cert and --client-key",
}


def result_json(task: Task[Any], name: str, result: Any) -> dict[str, Any]:
    """Return the result of a picture or video of this name as a JSON object."""
    return {task.input: name, "model": result.model, "version": result.version, **task.result_json(result)}


def error_line(error: ResonnxError, server: str) -> str:
    """Return an error as one line, which names the server if it failed, and options where access is the cause."""
    message = " ".join(error.message.split())
    if option := _ACCESS_OPTIONS.get(error.reason):
        return f"{message} ({option})"
    match error.code:
        case "UNAVAILABLE":
            options = [f" ({option})" for part, option in _TLS_OPTIONS.items() if part in message]
            return f"server {server} is not available: {message}{''.join(options)}"
        case "DEADLINE_EXCEEDED":
            return f"no answer from {server} in time: {message}"
        case _:
            return message


def error_json(error: ResonnxError) -> dict[str, str]:
    """Return an error as the JSON object under "error"."""
    return {"code": error.code, "reason": error.reason, "message": error.message}


def models_lines(models: Iterable[tuple[ModelSummary, ModelInfo | None]]) -> list[str]:
    """Return the table of models; those that are not served have no details."""
    rows = [("NAME", "VERSION", "TASK", "STATE", "PROVIDER", "VERIFIED")]
    for summary, info in models:
        provider, verified = (_providers(info), _yes_no(info.verified)) if info else ("-", "-")
        state = f"{summary.state}: {summary.reason}" if summary.reason else summary.state
        rows.append((summary.name, str(summary.version), summary.task, state, provider, verified))
    return table(rows)


def model_row_json(summary: ModelSummary, info: ModelInfo | None) -> dict[str, Any]:
    """Return a model of the list as a JSON object."""
    return {
        **asdict(summary),
        "provider": _providers(info) if info else None,
        "verified": info.verified if info else None,
    }


def model_lines(info: ModelInfo) -> list[str]:
    """Return the description of a model as lines of text."""
    summary, limits = info.summary, info.limits
    rows = [
        ("name", summary.name),
        ("version", str(summary.version)),
        ("task", summary.task),
        ("state", f"{summary.state}: {summary.reason}" if summary.reason else summary.state),
        ("verified", _yes_no(info.verified)),
        *_comparison_rows(info),
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
        # A server with model_details = false does not tell it.
        if info.manifest.HasField("source"):
            rows.append(("source", f"{source.architecture} ({source.layout})"))
        # Not the other way round: tensors have the height first.
        order = "" if size.height == size.width else " (height x width)"
        rows.append(("picture size", f"{size.height}x{size.width}{order}"))
        if task := task_of(summary):
            rows += task.manifest_rows(info.manifest)
    rows += [(f"input {tensor.name}", _tensor(tensor)) for tensor in info.inputs]
    rows += [(f"output {tensor.name}", _tensor(tensor)) for tensor in info.outputs]
    for session in info.sessions:
        latencies = ", ".join(f"{x.batch_size}: {x.expected_s * 1e3:.1f} ms" for x in session.latencies)
        at_once = f"{session.instances} at once" if session.instances > 1 else "one at a time"
        rows.append((session.file, f"{session.provider} {session.precision}, {at_once}, batches {latencies}"))
    return table(rows)


def model_json(info: ModelInfo) -> dict[str, Any]:
    """Return the description of a model as a JSON object, with its manifest as in the model repository."""
    return {
        **asdict(info.summary),
        "verified": info.verified,
        "verified_against": info.verified_against or None,
        "assumptions": [asdict(assumption) for assumption in info.assumptions],
        "inputs": [asdict(tensor) for tensor in info.inputs],
        "outputs": [asdict(tensor) for tensor in info.outputs],
        "identity": info.identity,
        "limits": asdict(info.limits),
        "pictures": asdict(info.pictures) if info.pictures else None,
        "sessions": [asdict(session) for session in info.sessions],
        "manifest": MessageToDict(info.manifest) if info.manifest else None,
    }


def _comparison_rows(info: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield what the export was compared with, and a row for each property that the checkpoint does not record."""
    if info.manifest is None:
        return
    against = info.verified_against
    yield "verified against", _REFERENCES.get(against, against)
    known = "confirmed" if against == "user_answers" else "given"
    for each in info.assumptions:
        others = f" (or {', '.join(each.alternatives)})" if each.alternatives else ""
        yield known if each.confirmed else "assumed", f"{each.name} {each.value}; {each.option}{others}"


def _tensor(tensor: TensorInfo) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}{', optional' if tensor.optional else ''}"


def _providers(info: ModelInfo) -> str:
    # A captioner's two files may run on different providers.
    return ", ".join(dict.fromkeys(session.provider for session in info.sessions)) or "-"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
