"""First convolutions on blocks of pixels give the same bytes; those that cannot have them stay as they are."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.graphs.drift_features import with_drift_features
from resonnx_export.graphs.pixel_blocks import on_pixel_blocks
from resonnx_export.graphs.trace import OPSET, trace_classifier
from resonnx_export.networks.resnet import ARCHITECTURES
from resonnx_export.pictures.recipe import Size, image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision import int8
from resonnx_export.precision.int8 import quantiser
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb

from tests.export.conftest import random_network

Quantised = Callable[..., tuple[bytes, bytes]]
# The zero point of the convolution's input, which is what its padding must hold.
_ZERO = 114


def stem(
    size: tuple[int, int], kernel: tuple[int, int], pads: Sequence[int], order: Sequence[int], stride: int = 2
) -> onnx.ModelProto:
    """Return a graph from pictures uint8 [N,*size,3] to one quantised convolution of 20 channels."""
    random = np.random.default_rng(0)
    step, weight_steps = np.float32(0.0186), random.uniform(0.001, 0.002, 20).astype(np.float32)
    constants = {
        "order": np.array(order),
        "scale": random.uniform(0.01, 0.02, (3, 1, size[1])).astype(np.float32),
        "shift": random.uniform(-2, -1, (3, 1, size[1])).astype(np.float32),
        "step": np.array(step),
        "zero": np.array(_ZERO, np.uint8),
        # Within what kernels without VNNI sum in 16 bits: 255 * 2 * 64.
        "weights": random.integers(-64, 65, (20, 3, *kernel)).astype(np.int8),
        "weight_steps": weight_steps,
        "weight_zeros": np.zeros(20, np.int8),
        "bias": random.integers(-9000, 9000, 20).astype(np.int32),
        "bias_steps": step * weight_steps,
        "bias_zeros": np.zeros(20, np.int32),
        "out_step": np.array(0.05, np.float32),
        "out_zero": np.array(100, np.uint8),
    }
    node = helper.make_node
    nodes = [
        node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        node("Gather", ["planes", "order"], ["ordered"], axis=1),
        node("Cast", ["ordered"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "scale"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["normalised"]),
        node("QuantizeLinear", ["normalised", "step", "zero"], ["bytes"]),
        node("DequantizeLinear", ["bytes", "step", "zero"], ["x"]),
        node("DequantizeLinear", ["weights", "weight_steps", "weight_zeros"], ["w"], axis=0),
        node("DequantizeLinear", ["bias", "bias_steps", "bias_zeros"], ["b"], axis=0),
        node("Conv", ["x", "w", "b"], ["y"], kernel_shape=list(kernel), strides=[stride] * 2, pads=list(pads)),
        node("QuantizeLinear", ["y", "out_step", "out_zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *size, 3])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, ["batch", 20, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def first_convolution(content: bytes) -> tuple[list[int], list[int], list[int]]:
    """Return the shape of the weights, the strides and the pads of the first convolution of a graph in int8."""
    graph = onnx.load_model_from_string(content).graph
    node = next(node for node in graph.node if node.op_type == "Conv")
    made = {node.output[0]: node for node in graph.node}
    weights = next(tensor for tensor in graph.initializer if tensor.name == made[node.input[1]].input[0])
    attributes = {each.name: list(each.ints) for each in node.attribute}
    return list(weights.dims), attributes["strides"], attributes["pads"]


_EVEN = st.integers(3, 8).map(lambda half: 2 * half)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(_EVEN, _EVEN),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.lists(st.integers(0, 4), min_size=4, max_size=4),
    st.permutations([0, 1, 2]),
)
def test_outputs_are_the_same_bytes(
    size: tuple[int, int], kernel: tuple[int, int], pads: list[int], order: list[int]
) -> None:
    plain = stem(size, kernel, pads, order).SerializeToString()
    if any(size[axis] + pads[axis] + pads[2 + axis] < kernel[axis] for axis in (0, 1)):
        return
    x = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    blocked = on_pixel_blocks(onnx.load_model_from_string(plain)).SerializeToString()
    assert first_convolution(blocked)[1] == [1, 1]
    expected, found = (open_session(content).run({"image": x}, ["out"])["out"] for content in (plain, blocked))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("kernel", "pad", "blocked"),
    [(7, 3, ([20, 12, 4, 4], [2, 2, 1, 1])), (3, 1, ([20, 12, 2, 2], [1, 1, 0, 0]))],
)
def test_kernels_on_blocks(kernel: int, pad: int, blocked: tuple[list[int], list[int]]) -> None:
    model = on_pixel_blocks(stem((16, 32), (kernel, kernel), [pad] * 4, [2, 1, 0]))
    assert first_convolution(model.SerializeToString()) == (blocked[0], [1, 1], blocked[1])
    # The order of channels is that of the weights now.
    assert "Gather" not in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("size", "stride"), [((15, 16), 2), ((16, 15), 2), ((16, 16), 1)])
def test_odd_sizes_and_other_strides_stay(size: tuple[int, int], stride: int) -> None:
    model = stem(size, (7, 7), [3] * 4, [0, 1, 2], stride)
    before = model.SerializeToString()
    assert on_pixel_blocks(model).SerializeToString() == before


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> Quantised:
    """Return a function that gives a random network's graph in int8, without blocks and as it is exported."""
    config = replace(ARCHITECTURES["resnet18"], layers=(1,), planes=16, num_classes=4)

    def quantise(recipe: pb.ImageInput, in_float: Sequence[str] = ()) -> tuple[bytes, bytes]:
        model = with_drift_features(trace_classifier(random_network(config), recipe))
        with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
            exported = tool.quantise(in_float)
            with monkeypatch.context() as patch:
                patch.setattr(int8, "on_pixel_blocks", lambda model: model)
                return tool.quantise(in_float), exported

    return quantise


_BGR = image_input(Size(36, 50), resize_short_side=50, channel_order="bgr")


def test_exports_keep_every_bit(quantised: Quantised) -> None:
    plain, exported = quantised(_BGR)
    assert first_convolution(plain)[0] == [16, 3, 7, 7]
    assert first_convolution(exported) == ([16, 12, 4, 4], [1, 1], [2, 2, 1, 1])
    # Dark, so that kernels without VNNI, which sum pairs of products in 16 bits, do not saturate.
    pictures = check_pictures(_BGR, 7, seed=3) // 3
    expected, found = (open_session(content).run({"image": pictures}) for content in (plain, exported))
    assert "drift_features" in expected
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    ("recipe", "in_float"), [(image_input(33, resize_short_side=33), []), (_BGR, ["conv1"])], ids=["odd", "in float"]
)
def test_exports_that_stay(recipe: pb.ImageInput, in_float: list[str], quantised: Quantised) -> None:
    plain, exported = quantised(recipe, in_float)
    assert plain == exported
