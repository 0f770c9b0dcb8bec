"""Names of classes belong to the outputs that have classes."""

from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.inference.class_names import class_names


@pytest.mark.parametrize(
    ("output", "classes", "named"),
    [("probabilities", 2, True), ("logits", 2, True), ("features", 2, False), ("logits", 3, False)],
)
def test_features_have_no_names_even_if_they_are_as_many_as_classes(output: str, classes: int, named: bool) -> None:
    manifest = SimpleNamespace(classifier=SimpleNamespace(labels=["cat", "dog"]))
    model: Any = SimpleNamespace(manifest=manifest, declaration=None)
    assert list(class_names(model, output, classes)) == (["cat", "dog"] if named else [])
