"""Versions of models as JSON objects. Names of enums are written as in the query of a picture's request."""

from collections.abc import Mapping
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_proto.v1 import repository_pb2

from resonnx_server.http.rest.tensors.message_json import as_json
from resonnx_server.inference.registry import Model, Models, SessionReport
from resonnx_server.inference.repository_control import VersionState

_PREFIXES: Final[Mapping[str, str]] = {"mode": "COMPARISON_MODE_", "state": "COMPARISON_STATE_"}


def listed(state: VersionState, model: Model | None, models: Models) -> dict[str, Any]:
    """Return what the list of models has of a version.

    Args:
        state: Its state.
        model: The version, if it serves.
        models: The registry, which has its labels.
    """
    labels = sorted(label for label, number in models.labels(state.name).items() if number == state.version)
    body: dict[str, Any] = {
        "name": state.name,
        "version": state.version,
        "state": state.state.value,
        "reason": state.reason,
        "labels": labels,
    }
    if model is None:
        return body
    return body | {
        "task": pb.Task.Name(model.task.kind).removeprefix("TASK_").lower(),
        "is_default": models.is_default(model),
        "verified": model.verified,
        "verified_against": model.verified_against,
        "sessions": [_session(each) for each in model.sessions],
    }


def described(model: Model) -> dict[str, Any]:
    """Return what is told of one version, beside what the list has: how it runs, and how its export was checked."""
    body: dict[str, Any] = {
        "identity": model.identity,
        "max_batch_size": model.max_batch_size,
        "sessions": [{**_session(each), "latencies": _latencies(each)} for each in model.sessions],
    }
    if model.pictures is not None:
        orientation = "apply" if model.pictures.applies_exif else "ignore"
        body["pictures"] = {"formats": [*model.pictures.formats], "exif_orientation": orientation}
    if (manifest := model.manifest) is None:
        return body
    if manifest.HasField("input"):
        image = manifest.input
        body["input"] = {"width": image.width, "height": image.height, "resize": _resize(image)}
        if image.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
            body["input"]["resize_short_side"] = image.resize_short_side
    if manifest.WhichOneof("spec") == "captioner":
        spec = manifest.captioner
        body["words"] = len(spec.vocabulary)
        if spec.attention_rows:
            body |= {"attention_rows": spec.attention_rows, "attention_columns": spec.attention_columns}
    elif manifest.WhichOneof("spec") == "video_classifier":
        video = manifest.video_classifier
        body |= {"classes": len(video.labels), "max_frames": video.max_frames, "is_streamed": len(video.states) > 0}
    else:
        body["classes"] = len(manifest.classifier.labels)
        if isinstance(model.heatmaps, str):
            body["heatmaps_unsupported"] = model.heatmaps
        else:
            body |= {"heatmap_rows": model.heatmaps.rows, "heatmap_columns": model.heatmaps.columns}
    fields = ("name", "value", "option", "confirmed")
    body["assumptions"] = [{name: getattr(each, name) for name in fields} for each in manifest.assumptions]
    body["parity"] = {
        "checks": [_without_empty(as_json(each)) for each in manifest.parity.checks],
        "damaged_copy_rejected": manifest.parity.damaged_copy_rejected,
        "agreements": [
            {**_without_empty(as_json(each)), "precision": _precision(each.precision)}
            for each in manifest.parity.agreements
        ],
    }
    return body


def compared(comparison: repository_pb2.Comparison) -> dict[str, Any]:
    """Return what is told of a comparison; not where its report lies, which is the operator's."""
    body = {name: value for name, value in as_json(comparison).items() if name != "report"}
    return body | {name: body[name].removeprefix(prefix).lower() for name, prefix in _PREFIXES.items()}


def _session(session: SessionReport) -> dict[str, Any]:
    return {
        "file": session.file,
        "provider": session.candidate.provider,
        "precision": _precision(session.candidate.precision),
        "instances": session.instances,
    }


def _latencies(session: SessionReport) -> list[dict[str, Any]]:
    """Return the predicted time of each batch size."""
    return [
        {"batch_size": size, "expected_us": cost.expected_ns / 1000, "spread_us": cost.spread_ns / 1000}
        for size, cost in sorted(session.table.snapshot().items())
    ]


def _precision(number: Any) -> str:
    return pb.Precision.Name(number).removeprefix("PRECISION_").lower()


def _resize(image: pb.ImageInput) -> str:
    return pb.ImageInput.Resize.Name(image.resize).removeprefix("RESIZE_").lower()


def _without_empty(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something; a number that is 0 does."""
    return {name: value for name, value in body.items() if value not in ("", [])}
