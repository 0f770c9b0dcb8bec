"""The pictures with the greatest differences, with both predictions side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.proof.predictions import Predictions, hardest_first
from resonnx_export.report.pictures import picture_uri
from resonnx_export.tasks import task_of

MOST_PICTURES: Final = 4


@dataclass(frozen=True)
class Compared:
    """A picture (the model's input, a data: URI, width and height in pixels) with both predictions.

    Attributes:
        changed: Whether the predictions differ.
        difference: Greatest absolute difference; None if nothing could be compared.
        prediction: Variables of the task's template.
    """

    picture: str
    width: int
    height: int
    changed: bool
    difference: float | None
    prediction: Mapping[str, Any]


def hardest_pictures(predictions: Predictions, manifest: pb.Manifest, *, typical: bool) -> list[Compared]:
    """Return up to MOST_PICTURES typical or synthetic pictures, by hardest_first."""
    rows = [row for row in hardest_first(predictions) if (row in predictions.pictures.typical) == typical]
    return [compare_picture(predictions, manifest, row) for row in rows[:MOST_PICTURES]]


def compare_picture(predictions: Predictions, manifest: pb.Manifest, row: int) -> Compared:
    """Return the picture in `row` with both predictions."""
    pixels, differences = predictions.pictures.pixels[row], predictions.differences[row]
    return Compared(
        picture=picture_uri(pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
        changed=bool(predictions.changed[row]),
        difference=float(differences.max()) if len(differences) else None,
        prediction=task_of(manifest).prediction(predictions, manifest, row),
    )
