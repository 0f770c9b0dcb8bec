"""The names of an output's classes, for the classification extension."""

from collections.abc import Sequence

from resonnx_server.inference.registry import Model


def class_names(model: Model, output: str, classes: int) -> Sequence[str]:
    """Return the names of an output's classes by index, if they have names: "" for those that have none.

    Args:
        model: The model.
        output: The output's name.
        classes: How many classes it has.
    """
    if model.manifest is not None:
        labels = model.manifest.classifier.labels
        # Other outputs, as features, have no classes.
        return labels if len(labels) == classes else ()
    declared = model.declaration.output(output) if model.declaration is not None else None
    return declared.labels if declared is not None else ()
