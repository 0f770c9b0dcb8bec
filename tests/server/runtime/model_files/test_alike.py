"""Graphs that differ in their weights only are alike."""

import pytest
from resonnx_server.runtime.model_files.alike import graph_sum

from ... import answering, onnx_classifier


def test_other_weights_make_an_alike_graph_and_other_shapes_do_not() -> None:
    one, other = (answering.files(answer)["model.onnx"] for answer in (1, 2))
    assert one != other
    assert graph_sum(one) == graph_sum(other)
    assert graph_sum(onnx_classifier.files().files["model.onnx"]) != graph_sum(one)


def test_small_tensors_count_as_they_may_be_shapes_and_bounds() -> None:
    one, other = (onnx_classifier.files(wrong_at).files["model.onnx"] for wrong_at in (0, 3))
    assert graph_sum(one) != graph_sum(other)


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 9, b"\x3a\x7f"])
def test_a_damaged_file_has_a_sum_of_its_own(damaged: bytes) -> None:
    assert graph_sum(damaged) != graph_sum(damaged + b"\x00\x01")
