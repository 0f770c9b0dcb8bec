"""Convolutions without the taps that only see padding give the same outputs, and keep no such taps."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.graphs.padding_taps import without_padding_taps
from resonnx_export.graphs.trace import OPSET, trace_classifier
from resonnx_export.networks.resnet import ARCHITECTURES
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof import reference
from resonnx_export.proof.parity import open_session

from tests.export.conftest import random_network


def convolution(size: tuple[int, int], kernel: tuple[int, int], **attributes: list[int]) -> onnx.ModelProto:
    """Return a graph of one convolution of maps [N,2,size] with random integers as weights, whose sums are exact."""
    weights = np.random.default_rng(0).integers(-9, 10, (3, 2, *kernel)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weights"], ["y"], kernel_shape=list(kernel), **attributes)],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, None, None])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def kernels(model: onnx.ModelProto) -> list[list[int]]:
    """Return the kernel's shape of each convolution, of its weights, in order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return [list(weights[node.input[1]].dims[2:]) for node in model.graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize(
    ("size", "attributes", "kept"),
    [
        ((1, 1), {"pads": [1, 1, 1, 1]}, [1, 1]),
        ((1, 4), {"pads": [1, 1, 1, 1]}, [1, 3]),
        ((2, 2), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, [2, 2]),
        ((2, 2), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, [1, 1]),
        ((2, 2), {"pads": [1, 1, 1, 1]}, [3, 3]),
        ((3, 3), {}, [3, 3]),
    ],
)
def test_taps_that_remain(size: tuple[int, int], attributes: dict[str, list[int]], kept: list[int]) -> None:
    assert kernels(without_padding_taps(convolution(size, (3, 3), **attributes))) == [kept]


_PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=40, deadline=None)
@given(_PAIR, _PAIR, st.lists(st.integers(0, 4), min_size=4, max_size=4), _PAIR, _PAIR)
def test_outputs_are_the_same(
    size: tuple[int, int],
    kernel: tuple[int, int],
    pads: list[int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> None:
    reach = [dilation * (taps - 1) + 1 for taps, dilation in zip(kernel, dilations, strict=True)]
    if any(reach[axis] > size[axis] + pads[axis] + pads[2 + axis] for axis in (0, 1)):
        return
    model = convolution(size, kernel, pads=pads, strides=list(strides), dilations=list(dilations))
    x = np.random.default_rng(1).integers(-9, 10, (2, 2, *size)).astype(np.float32)
    expected = open_session(model.SerializeToString()).run({"x": x}, ["y"])["y"]
    found = open_session(without_padding_taps(model).SerializeToString()).run({"x": x}, ["y"])["y"]
    np.testing.assert_array_equal(found, expected)


def test_small_pictures_through_an_imagenet_stem() -> None:
    network = random_network(replace(ARCHITECTURES["resnet18"], layers=(1, 1, 1, 1), planes=8, num_classes=4))
    recipe = image_input(32, resize_short_side=36)
    content = trace_classifier(network, recipe)
    # Maps of 8x8, 4x4, 2x2 and 1x1: two convolutions each, and the shortcuts of 1x1.
    assert [kernel for kernel in kernels(onnx.load_model_from_string(content)) if kernel != [1, 1]] == (
        [[7, 7]] + 6 * [[3, 3]] + [[2, 2]]
    )
    pictures = check_pictures(recipe, 7, seed=3)
    expected = reference.classify(network, pictures, recipe).logits
    found = open_session(content).run({"image": pictures}, ["logits"])["logits"]
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
