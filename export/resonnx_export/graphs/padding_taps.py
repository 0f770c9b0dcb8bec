"""Removes the taps of convolutions that only ever see padding: 3x3 on a map of 1x1 is 1x1.

Pictures that are small for their network end in such maps: with an ImageNet stem, 32x32 is 2x2 in the third stage and
1x1 in the last one, where eight of nine taps multiply zeros. Sizes of pictures are fixed, so this is known at export.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Axes of a picture's map [N,C,H,W].
_AXES: Final = 2


def without_padding_taps(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the same outputs whose convolutions have no rows and columns of taps that only see padding.

    Only convolutions with fixed input sizes and explicit padding change; weights keep their names.
    """
    graph = model.graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if not convolutions:
        return model
    shapes = _shapes(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in convolutions:
        size = shapes.get(node.input[0])
        if size is None or node.input[1] not in weights or uses[node.input[1]] != 1:
            continue
        tensor = weights[node.input[1]]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if len(tensor.dims) != 2 + _AXES or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        kept, pads = zip(*(_kept(axis, size[axis], tensor.dims[2 + axis], attributes) for axis in (0, 1)), strict=True)
        rows, columns = kept
        if (len(rows), len(columns)) == tuple(tensor.dims[2:]):
            continue
        values = numpy_helper.to_array(tensor)[:, :, rows.start : rows.stop, columns.start : columns.stop]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        _set(node, "kernel_shape", [len(rows), len(columns)])
        _set(node, "pads", [pad[end] for end in (0, 1) for pad in pads])
    return model


def _kept(axis: int, size: int, taps: int, attributes: Mapping[str, list[int]]) -> tuple[range, tuple[int, int]]:
    """Return the taps of an axis from the first to the last that sees the map, and the padding that they need."""
    begin, end = (attributes.get("pads", [0] * 2 * _AXES)[axis + side] for side in (0, _AXES))
    stride, dilation = (attributes.get(name, [1] * _AXES)[axis] for name in ("strides", "dilations"))

    def outputs(before: int, after: int, taps: int) -> range:
        return range(0, size + before + after - dilation * (taps - 1), stride)

    seeing = [
        tap
        for tap in range(taps)
        if any(0 <= output + tap * dilation - begin < size for output in outputs(begin, end, taps))
    ]
    whole = range(taps), (begin, end)
    if not seeing:
        return whole
    kept = range(seeing[0], seeing[-1] + 1)
    before, after = begin - kept[0] * dilation, max(0, end - (taps - 1 - kept[-1]) * dilation)
    # Paddings cannot be negative: where that would be needed, all taps stay.
    same = before >= 0 and outputs(before, after, len(kept)) == outputs(begin, end, taps)
    return (kept, (before, after)) if same else whole


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Return height and width of each tensor [N,C,H,W] whose size is fixed."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*graph.value_info, *graph.input):
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if len(sizes) == 2 + _AXES and all(sizes[2:]):
            shapes[value.name] = (sizes[2], sizes[3])
    return shapes


def _set(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    for attribute in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, values))
