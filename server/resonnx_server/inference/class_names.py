"""The names of an output's classes, for the classification extension."""

from collections.abc import Sequence
from typing import Final

from resonnx_server.inference.registry import Model

# A classifier's output that has no classes.
_FEATURES: Final = "features"


def class_names(model: Model, output: str, classes: int) -> Sequence[str]:
    """Return the names of an output's classes by index, if they have names: "" for those that have none.

    Args:
        model: The model.
        output: The output's name.
        classes: How many classes it has.
    """
    if model.manifest is not None:
        labels = model.manifest.classifier.labels or model.manifest.video_classifier.labels
        # There may be as many features as classes.
        return labels if len(labels) == classes and output != _FEATURES else ()
    declared = model.declaration.output(output) if model.declaration is not None else None
    return declared.labels if declared is not None else ()
