"""Classifiers: requests and results on the wire, results as text, calls of the load generator."""

from dataclasses import asdict, replace
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2, vision_pb2

from resonnx import _rpcs
from resonnx._messages import message, model_fields, timeout_us, timing
from resonnx._results import Classification, Prediction
from resonnx._table import table
from resonnx._tasks.task import StreamCall, Task


def classify_request(
    image: vision_pb2.Image,
    model: str,
    *,
    version: int | str | None,
    top_k: int | None,
    features: bool,
    heatmap: bool = False,
    priority: int | None = None,
    answer_within_s: float | None = None,
    id: str = "",
) -> vision_pb2.ClassifyRequest:
    """Build a request.

    Raises:
        ValueError: A number is out of its field's range, `answer_within_s` is not positive, or a version is
            given twice.
    """
    fields = model_fields(model, version) | {
        "image": image,
        "top_k": top_k or 0,
        "return_features": features,
        "return_heatmap": heatmap,
        "id": id,
        "priority": priority,
        "timeout_us": timeout_us(answer_within_s),
    }
    return message(vision_pb2.ClassifyRequest, fields)


def classification(response: vision_pb2.ClassifyResponse, *, features: bool) -> Classification:
    """Read a response; `features` as in the request."""
    found = Classification(
        model=response.model,
        version=response.version,
        predictions=tuple(
            Prediction(p.label, p.index, p.score, tuple(p.heatmap), p.heatmap_bias) for p in response.predictions
        ),
        features=tuple(response.features) if features else None,
        timing=timing(response.timing),
    )
    if not response.heatmap_rows:
        return found
    area = response.heatmap_area
    return replace(
        found,
        heatmap_grid=(response.heatmap_rows, response.heatmap_columns),
        heatmap_area=(area.left, area.top, area.right, area.bottom),
    )


def _lines(result: Classification) -> list[str]:
    return table((prediction.label, f"{prediction.score:.2f}") for prediction in result.predictions)


def _json(result: Classification) -> dict[str, Any]:
    predictions = [asdict(prediction) for prediction in result.predictions]
    if not result.heatmap_grid[0]:
        for each in predictions:
            del each["heatmap"], each["heatmap_bias"]
        return {"predictions": predictions}
    return {"predictions": predictions, "heatmap_grid": result.heatmap_grid, "heatmap_area": result.heatmap_area}


def _rows(manifest: manifest_pb2.Manifest) -> list[tuple[str, str]]:
    return [("labels", str(len(manifest.classifier.labels)))]


def _numbered(id: str, left_s: float | None) -> bytes:
    # The load generator measures a picture's deadline itself.
    return vision_pb2.ClassifyRequest(id=id).SerializeToString()


def _outcome(serialised: bytes) -> tuple[str, str, str]:
    response = vision_pb2.ClassifyStreamResponse.FromString(serialised)
    return response.id, response.error.code if response.HasField("error") else "OK", response.error.message


CLASSIFY: Final = Task(
    "classify",
    "classifier",
    result_lines=_lines,
    result_json=_json,
    manifest_rows=_rows,
    path=_rpcs.CLASSIFY.path,
    request=lambda model, image: vision_pb2.ClassifyRequest(**model_fields(model, None), image=image),
    stream=StreamCall(_rpcs.CLASSIFY_STREAM.path, _numbered, _outcome),
)
