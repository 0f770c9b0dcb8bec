"""ONNX files that are no classifiers, or damaged: one line says why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from resonnx_export.errors import BadInput
from resonnx_export.onnx_files.recognised import grafted, open_onnx
from resonnx_export.pictures.recipe import image_input

from ...server.public_networks import public_network
from .graphs import POOL, ROWS, SIZE, SOFTMAX, X, graph_of, opened

REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "two inputs": (
        graph_of([helper.make_node("Add", ["x", "z"], ["y"])], {**X, "z": ["n", 3, 8, 8]}, ["y"]),
        "the graph has 2 inputs ('x', 'z')",
    ),
    "video": (graph_of([POOL], {"x": ["n", 4, 3, 8, 8]}, ["pooled"]), "pictures are [N,C,H,W] or [N,H,W,C]"),
    "five channels": (graph_of([POOL], {"x": ["n", 5, 8, 7]}, ["pooled"]), "a picture is [N,3,H,W]"),
    "huge sides": (graph_of([POOL], {"x": ["n", 3, 1 << 20, 1 << 20]}, ["pooled"]), "sides are within 1..4096"),
    "huge batch": (graph_of([POOL], {"x": [1 << 40, 3, 8, 8]}, ["pooled"]), "67108864 pixels a batch are run at most"),
    "a picture out": (
        graph_of([helper.make_node("Relu", ["x"], ["y"])], X, ["y"]),
        "no output has a value for each class",
    ),
    "two outputs": (
        graph_of([POOL, helper.make_node("Relu", ["pooled"], ["y"])], X, ["pooled", "y"]),
        "several outputs have a value for each class: 'pooled' [2, 3], 'y' [2, 3]; name one with --output",
    ),
    "cannot be run": (
        graph_of([POOL, helper.make_node("MatMul", ["pooled", "x"], ["y"])], X, ["y"]),
        "the graph cannot be run on pictures of 32x24 (--size changes it): ",
    ),
    "opset 6": (
        helper.make_model(public_network("vgg", 9).graph, opset_imports=[helper.make_opsetid("", 6)]),
        "opset 6; ONNX Runtime runs 7 and later",
    ),
    "float16": (graph_of([POOL], X, ["pooled"]), "the graph computes in float16"),
    "integers": (
        graph_of([POOL, helper.make_node("DynamicQuantizeLinear", ["pooled"], ["a", "b", "c"])], X, ["pooled"]),
        "the graph computes in integers (DynamicQuantizeLinear)",
    ),
    "empty": (onnx.ModelProto(), "is not an ONNX file"),
    "a huge constant": (
        graph_of(
            [
                helper.make_node("Constant", [], ["many"], value_ints=[1 << 40]),
                helper.make_node("ConstantOfShape", ["many"], ["y"]),
            ],
            X,
            ["y"],
        ),
        "(ConstantOfShape) makes a constant of shape [1099511627776]",
    ),
}
REFUSED["float16"][0].graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float16), "half"))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_classifier_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    model, reason = REFUSED[kind]
    with pytest.raises(BadInput) as refused:
        opened(model, tmp_path)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_file_whose_rows_depend_on_each_other_is_refused(tmp_path: Path) -> None:
    network = opened(graph_of([POOL, ROWS, helper.make_node("Sub", ["pooled", "mean"], ["y"])], X, ["y"]), tmp_path)
    # As it comes it runs all pictures of a batch together, so that nothing can be compared but its own batches.
    assert network.form.batch is None
    fixed = graph_of([POOL, ROWS, helper.make_node("Sub", ["pooled", "mean"], ["y"])], {"x": [2, 3, 8, 8]}, ["y"])
    with pytest.raises(BadInput, match="the graph works with 2 pictures at a time only"):
        grafted(opened(fixed, tmp_path), image_input(8, resize_short_side=None), SOFTMAX)


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    content = public_network("lenet", 13, "N").SerializeToString()
    refusals = []
    for number in range(40):
        rng = np.random.default_rng(number)
        damaged = bytearray(content)
        damaged[int(rng.integers(len(damaged)) ** 0.7)] ^= int(rng.integers(1, 256))
        del damaged[len(damaged) - (number % 2) * int(rng.integers(len(damaged))) :]
        (tmp_path / "model.onnx").write_bytes(damaged)
        try:
            open_onnx(tmp_path / "model.onnx", SIZE)
        except BadInput as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)
