"""Lets the first convolution of an int8 graph read blocks of 2x2 pixels: 7x7 with stride 2 becomes 4x4 with stride 1.

ONNX Runtime's fast kernel for convolutions in int8 takes channels in fours. For the three channels of a picture, it
copies the taps of every output into a buffer and rounds the sums in a separate pass. A block has 12 channels. Taps
beyond the kernel are zeros, and as pictures have whole blocks, a block of padding has only pixels of padding: all sums
are the same integers. (Kernels for processors without VNNI add pairs of products in 16 bits, which may saturate in both
forms, but not for the same pairs.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from resonnx_server.runtime.graphs import IMAGE

# Pixels along the side of a block: the stride of the convolutions that change.
_SIDE: Final = 2
_CHANNELS: Final = 3
_QUANTISATION: Final = ("QuantizeLinear", "DequantizeLinear")
_PREPARATION: Final = ("Transpose", "Cast", "Mul", "Add")
_PREFIX: Final = "pixel_blocks"


@dataclass(frozen=True)
class _Stem:
    """The nodes from the picture to the first convolution.

    Attributes:
        transpose: Reads the picture.
        reorder: Changes the order of channels, if the graph has such a node.
        order: The picture's channel in each of the network's.
        factors: Of the normalisation, float32 [3,1,W].
        convolution: The convolution.
        weights: int8 [K,3,h,w].
        size: Height and width of the picture.
    """

    transpose: onnx.NodeProto
    reorder: onnx.NodeProto | None
    order: Sequence[int]
    factors: Sequence[onnx.TensorProto]
    convolution: onnx.NodeProto
    weights: onnx.TensorProto
    size: tuple[int, int]


def on_pixel_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the same outputs whose first convolution reads blocks of 2x2 pixels, of 12 channels.

    Only graphs of trace.py and onnx_files/graft.py change that are quantised to int8 from the first convolution on, if
    that has a stride of 2 and reads RGB pictures of even height and width. The model is changed in place.
    """
    stem = _find(model.graph)
    if stem is None:
        return model
    attributes = {each.name: helper.get_attribute_value(each) for each in stem.convolution.attribute}
    pads = attributes.get("pads", [0] * 4)
    axes = [_Axis.of(stem.size[i], stem.weights.dims[2 + i], pads[i], pads[2 + i]) for i in (0, 1)]
    _set(stem.convolution, "kernel_shape", [axis.taps for axis in axes])
    _set(stem.convolution, "strides", [1, 1])
    _set(stem.convolution, "pads", [axes[0].before, axes[1].before, axes[0].after, axes[1].after])
    weights = _blocked_weights(numpy_helper.to_array(stem.weights), stem.order, axes)
    stem.weights.CopyFrom(numpy_helper.from_array(weights, stem.weights.name))
    for factor in stem.factors:
        blocked = _blocked_factor(numpy_helper.to_array(factor), stem.order)
        factor.CopyFrom(numpy_helper.from_array(blocked, factor.name))
    if stem.reorder is not None:
        _remove(model.graph, stem.reorder)
    _insert(model.graph, stem)
    return model


@dataclass(frozen=True)
class _Axis:
    """A kernel on blocks along one axis.

    Attributes:
        begin: Padding before the pixels, as it was.
        before: Blocks of padding before the picture.
        taps: Blocks that the kernel spans.
        after: Blocks of padding after the picture, for the same number of outputs.
    """

    begin: int
    before: int
    taps: int
    after: int

    @classmethod
    def of(cls, size: int, taps: int, begin: int, end: int) -> "_Axis":
        """Return the kernel for an even number of pixels, `taps` and their padding."""
        before = -(-begin // _SIDE)
        last = (taps - 1 - begin) // _SIDE
        outputs = (size + begin + end - taps) // _SIDE + 1
        return cls(begin, before, before + last + 1, outputs + last - size // _SIDE)

    def place(self, tap: int) -> tuple[int, int]:
        """Return the block of a tap within the kernel, and its pixel in the block."""
        block, pixel = divmod(tap - self.begin, _SIDE)
        return self.before + block, pixel


def _find(graph: onnx.GraphProto) -> _Stem | None:
    """Return the stem if its convolution can read blocks."""
    convolution = next((node for node in graph.node if node.op_type == "Conv"), None)
    if convolution is None:
        return None
    made = {output: node for node in graph.node for output in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    path = _path(convolution.input[0], made, uses)
    weights = _weights(convolution, made, tensors)
    if path is None or weights is None or uses[weights.name] != 1:
        return None
    reorder = next((node for node in path if node.op_type == "Gather"), None)
    order = list(range(_CHANNELS))
    if reorder is not None:
        if reorder.input[1] not in tensors or _attribute(reorder, "axis", 0) != 1:
            return None
        order = numpy_helper.to_array(tensors[reorder.input[1]]).tolist()
    axes = next(value for value in graph.input if value.name == IMAGE).type.tensor_type.shape.dim
    height, width = axes[1].dim_value, axes[2].dim_value
    names = [node.input[1] for node in path if node.op_type in ("Mul", "Add")]
    factors = [tensors[name] for name in names if name in tensors and uses[name] == 1]
    suits = (
        [node.op_type for node in path if node.op_type not in (*_QUANTISATION, "Gather")] == [*_PREPARATION]
        and _attribute(path[0], "perm", []) == [0, 3, 1, 2]
        and sorted(order) == list(range(_CHANNELS))
        and [list(factor.dims) for factor in factors] == 2 * [[_CHANNELS, 1, width]]
        and not (height % _SIDE or width % _SIDE)
    )
    return _Stem(path[0], reorder, order, factors, convolution, weights, (height, width)) if suits else None


def _path(name: str, made: Mapping[str, onnx.NodeProto], uses: Mapping[str, int]) -> list[onnx.NodeProto] | None:
    """Return the nodes from the picture to a tensor, in order; None if other nodes read a tensor between."""
    path: list[onnx.NodeProto] = []
    while name != IMAGE:
        node = made.get(name)
        if node is None or uses[name] != 1 or node.op_type not in (*_PREPARATION, *_QUANTISATION, "Gather"):
            return None
        path.insert(0, node)
        name = node.input[0]
    return path or None


def _weights(
    convolution: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    """Return a convolution's weights, if they are int8, zero is 0, and the stride is that of blocks."""
    scaled = made.get(convolution.input[1])
    if scaled is None or scaled.op_type != "DequantizeLinear":
        return None
    weights, zeros = tensors.get(scaled.input[0]), tensors.get(scaled.input[2])
    suits = (
        weights is not None
        and zeros is not None
        and weights.data_type == onnx.TensorProto.INT8
        and not numpy_helper.to_array(zeros).any()
        and len(weights.dims) == 4
        and weights.dims[1] == _CHANNELS
        and _attribute(convolution, "strides", [1, 1]) == [_SIDE, _SIDE]
        and _attribute(convolution, "dilations", [1, 1]) == [1, 1]
        and _attribute(convolution, "group", 1) == 1
        and _attribute(convolution, "auto_pad", b"NOTSET") == b"NOTSET"
    )
    return weights if suits else None


def _blocked_weights(
    weights: npt.NDArray[np.int8], order: Sequence[int], axes: Sequence[_Axis]
) -> npt.NDArray[np.int8]:
    """Return weights [K,3,h,w] on blocks: [K,12,h',w'], ordered by row and column in the block, then by channel."""
    rows, columns = axes
    blocked = np.zeros((len(weights), _SIDE, _SIDE, _CHANNELS, rows.taps, columns.taps), weights.dtype)
    for i in range(weights.shape[2]):
        for j in range(weights.shape[3]):
            (row, y), (column, x) = rows.place(i), columns.place(j)
            blocked[:, y, x, list(order), row, column] = weights[:, :, i, j]
    return blocked.reshape(len(weights), -1, rows.taps, columns.taps)


def _blocked_factor(factor: npt.NDArray[np.float32], order: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return a factor [3,1,W] for the channels of blocks: [12,1,W/2]."""
    blocked = np.empty((_SIDE, _SIDE, _CHANNELS, 1, factor.shape[2] // _SIDE), factor.dtype)
    for x in range(_SIDE):
        blocked[:, x, list(order)] = factor[:, :, x::_SIDE]
    return blocked.reshape(_SIDE * _SIDE * _CHANNELS, 1, -1)


def _insert(graph: onnx.GraphProto, stem: _Stem) -> None:
    """Let the transposition read blocks [N,H/2,W/2,12] instead of the picture."""
    height, width = (size // _SIDE for size in stem.size)
    pair = _SIDE * _CHANNELS
    # A block's two rows are split and joined: ONNX Runtime's Transpose is slower for pieces of six bytes.
    for name, values in (
        ("pairs", [0, height, _SIDE, width, pair]),
        ("each", [1] * _SIDE),
        ("blocks", [0, height, width, _SIDE * pair]),
    ):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{_PREFIX}/{name}_shape"))
    rows = [f"{_PREFIX}/row_{i}" for i in range(_SIDE)]
    nodes: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
        ("Reshape", [IMAGE, f"{_PREFIX}/pairs_shape"], [f"{_PREFIX}/pairs"], {}),
        ("Split", [f"{_PREFIX}/pairs", f"{_PREFIX}/each_shape"], rows, {"axis": 2}),
        ("Concat", rows, [f"{_PREFIX}/joined"], {"axis": 4}),
        ("Reshape", [f"{_PREFIX}/joined", f"{_PREFIX}/blocks_shape"], [f"{_PREFIX}/blocks"], {}),
    )
    for i, (kind, inputs, outputs, attributes) in enumerate(nodes):
        graph.node.insert(i, helper.make_node(kind, inputs, outputs, name=f"node_{outputs[0]}", **attributes))
    stem.transpose.input[0] = f"{_PREFIX}/blocks"


def _remove(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Let the readers of a node's output read its first input."""
    for reader in graph.node:
        for i, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[i] = node.input[0]
    constant = node.input[1]
    graph.node.remove(node)
    if not any(constant in reader.input for reader in graph.node):
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == constant))


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _set(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    for attribute in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, values))
