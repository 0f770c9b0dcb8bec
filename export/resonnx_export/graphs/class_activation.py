"""Decides whether class activation maps of a classifier are exact, and makes its graph give what they are computed of.

They are exact where the features are the mean of the last feature map, and the logits one linear layer of them: then
the mean of a class's weighted sum of the map is its logit, without the bias (Zhou et al., "Learning Deep Features for
Discriminative Localization", CVPR 2016). Anything else would show something that the model does not compute.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.class_activation import CLASS_BIAS, CLASS_WEIGHTS, FEATURE_MAP

from resonnx_export.graphs.node_inputs import tensors_read_by
from resonnx_export.graphs.trace import finish

_LOGITS: Final = "logits"
# They keep each row's values, and their order.
_KEEPING: Final = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast")
_SPATIAL: Final = ([2, 3], [-2, -1], [2, -1], [-2, 3])
_MAXIMA: Final = ("GlobalMaxPool", "ReduceMax", "MaxPool")
_SEVERAL: Final = "its head has several layers, not one linear layer"


class NotExact(Exception):
    """Class activation maps would not be exact; the message is the reason."""


class MappedGraph(NamedTuple):
    """A graph with the further output `feature_map`, or as it was, and what the manifest says of heatmaps."""

    model: bytes
    heatmaps: pb.ClassifierSpec.Heatmaps


class Head(NamedTuple):
    """What class activation maps are computed of.

    Attributes:
        feature_map: The tensor of the last feature map.
        shape: Its D, rows and columns.
        pooled: The tensor of its mean, [N,D].
        weights: Of the linear layer, float32 [K,D], with a BatchNorm before it folded in.
        bias: Likewise, [K].
    """

    feature_map: str
    shape: tuple[int, ...]
    pooled: str
    weights: np.ndarray
    bias: np.ndarray


def with_feature_map(model: bytes) -> MappedGraph:
    """Add the output feature_map [batch,D,rows,columns] to a classifier's float32 graph, if its maps are exact.

    The linear layer's weights become the initializers class_weights [K,D] and class_bias [K]. Otherwise the graph stays
    as it is.

    Raises:
        ParityFailed: The changed graph is not valid ONNX.
    """
    proto = onnx.load_model_from_string(model)
    try:
        ending = _Ending(proto, _LOGITS)
        head = ending.head()
    except NotExact as reason:
        return MappedGraph(model, pb.ClassifierSpec.Heatmaps(unsupported=str(reason)))
    ending.expose(head)
    _, rows, columns = head.shape
    return MappedGraph(finish(proto), pb.ClassifierSpec.Heatmaps(rows=rows, columns=columns))


def find_head(proto: onnx.ModelProto, logits: str) -> Head:
    """Find what class activation maps of `logits` are computed of. Raises NotExact."""
    return _Ending(proto, logits).head()


class _Ending:
    """The end of a classifier's graph: pooling, and what follows until the tensor `logits`."""

    def __init__(self, proto: onnx.ModelProto, logits: str) -> None:
        self._graph = proto.graph
        self._made: Mapping[str, onnx.NodeProto] = {name: node for node in self._graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._constants |= {name: value for node in self._graph.node for name, value in _constant(node)}
        self._shapes = dict(_shapes(proto))
        self._output = self._unchanged(logits)

    def head(self) -> Head:
        """Return what it is made of. Raises NotExact."""
        taken, weights, bias = self._linear()
        pooled, weights, bias = self._without_batch_norm(taken, weights, bias)
        tensor = self._pooled(pooled)
        shape = self._shapes.get(tensor, ())
        if len(shape) != 4 or not all(shape[1:]) or shape[1] != weights.shape[1]:
            raise NotExact(f"the shape of its last feature map is not known: {list(shape)}")
        if shape[2] * shape[3] == 1:
            raise NotExact("its last feature map has one position for pictures of this size")
        if len(self._shapes.get(pooled, ())) != 2:
            raise NotExact("its head takes no rows of features")
        if any(tensor in set(tensors_read_by(node)) - set(node.input) for node in self._graph.node):
            raise NotExact("its last feature map is also used within a branch or loop")
        return Head(tensor, shape[1:], pooled, weights, bias)

    def expose(self, head: Head) -> None:
        """Change the graph: one layer with the head's weights, and the feature map as an output."""
        graph = self._graph
        for name, values in ((CLASS_WEIGHTS, head.weights), (CLASS_BIAS, head.bias)):
            graph.initializer.append(numpy_helper.from_array(values, name))
        last = self._made[self._output]
        inputs = [head.pooled, CLASS_WEIGHTS, CLASS_BIAS]
        last.CopyFrom(helper.make_node("Gemm", inputs, [self._output], name=last.name or "classes", transB=1))
        self._remove_unused()
        for node in graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == head.feature_map:
                        names[i] = FEATURE_MAP
        info = helper.make_tensor_value_info(FEATURE_MAP, TensorProto.FLOAT, ["batch", *head.shape])
        graph.output.append(info)

    def _unchanged(self, name: str) -> str:
        """Return the tensor whose values another one has in another shape."""
        while (node := self._made.get(name)) is not None and node.op_type in _KEEPING:
            if node.op_type == "Cast" and _attribute(node, "to", 0) != TensorProto.FLOAT:
                break
            name = node.input[0]
        return name

    def _linear(self) -> tuple[str, np.ndarray, np.ndarray]:
        """Return the tensor that the last linear layer takes, its weights [K,D] and bias [K]."""
        node = self._made.get(self._output)
        bias, added = np.zeros(1, np.float32), False
        if node is not None and node.op_type == "Add":
            named = [name for name in node.input if name in self._constants]
            if len(named) != 1:
                raise NotExact("its logits are not the output of a linear layer, but of Add")
            bias, added = self._values(named[0]).reshape(-1), True
            node = self._made.get(next(name for name in node.input if name not in named))
        kind = "nothing" if node is None else node.op_type
        if node is None or kind not in (("MatMul",) if added else ("Gemm", "MatMul")):
            raise NotExact(f"its logits are not the output of a linear layer, but of {'Add' if added else kind}")
        weights = self._values(node.input[1])
        if weights.ndim != 2:
            raise NotExact(f"its linear layer has weights of the shape {list(weights.shape)}")
        transposed = False
        if kind == "Gemm":
            transposed = bool(_attribute(node, "transB", 0))
            if _attribute(node, "transA", 0):
                raise NotExact("its linear layer takes transposed features")
            if len(node.input) > 2:
                bias = self._values(node.input[2]).reshape(-1) * np.float32(_attribute(node, "beta", 1.0))
            weights = weights * np.float32(_attribute(node, "alpha", 1.0))
        weights = np.ascontiguousarray(weights if transposed else weights.T)
        return node.input[0], weights, np.ascontiguousarray(np.broadcast_to(bias, len(weights)))

    def _without_batch_norm(
        self, taken: str, weights: np.ndarray, bias: np.ndarray
    ) -> tuple[str, np.ndarray, np.ndarray]:
        """Fold a BatchNorm before the linear layer into its weights; return what it takes then."""
        name = self._unchanged(taken)
        node = self._made.get(name)
        if node is None or node.op_type != "BatchNormalization":
            return taken, weights, bias
        gain, shift, mean, variance = (self._values(each).astype(np.float64) for each in node.input[1:5])
        factor = gain / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        bias = bias + weights @ (shift - mean * factor)
        return node.input[0], (weights * factor).astype(np.float32), bias.astype(np.float32)

    def _pooled(self, name: str) -> str:
        """Return the feature map [N,D,h,w] whose mean a tensor is."""
        node = self._made.get(self._unchanged(name))
        if node is not None and node.op_type == "Gather" and not _attribute(node, "axis", 0):
            # Torch's adaptive pool: a mean, made flat, and read again by computed indices. That these keep its order is
            # left to the comparison with PyTorch.
            name = node.input[0]
            node = self._made.get(self._unchanged(name))
        kind = "nothing" if node is None else node.op_type
        if any(size != 1 for size in self._shapes.get(self._unchanged(name), ())[2:]):
            raise NotExact("its head takes the whole last feature map, not its mean")
        if node is None or kind in ("Gemm", "MatMul", "Relu", "BatchNormalization"):
            raise NotExact(_SEVERAL)
        if kind in _MAXIMA:
            raise NotExact("its features are maxima of the last feature map, not means")
        if kind == "Concat":
            raise NotExact("its features are several pools of the last feature map, not its mean alone")
        whole = kind == "AveragePool" and self._shapes.get(node.input[0], ())[2:] == tuple(
            _attribute(node, "kernel_shape", [])
        )
        if kind == "GlobalAveragePool" or whole or (kind == "ReduceMean" and self._axes(node) in _SPATIAL):
            return node.input[0]
        raise NotExact(f"its features are not the mean of the last feature map, but the output of {kind}")

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        if len(node.input) > 1 and node.input[1] in self._constants:
            return sorted(numpy_helper.to_array(self._constants[node.input[1]]).tolist(), key=lambda axis: axis % 4)
        return sorted(_attribute(node, "axes", []), key=lambda axis: axis % 4)

    def _values(self, name: str) -> np.ndarray:
        """Return a float32 constant."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            raise NotExact("the weights of its linear layer are not float32 constants")
        return numpy_helper.to_array(tensor)

    def _remove_unused(self) -> None:
        """Remove what the new linear layer does not need."""
        wanted = {output.name for output in self._graph.output}
        for node in reversed(list(self._graph.node)):
            if wanted.isdisjoint(node.output):
                self._graph.node.remove(node)
            else:
                wanted.update(tensors_read_by(node))
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in wanted]:
            self._graph.initializer.remove(tensor)


def _constant(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield the tensor of a Constant node."""
    if node.op_type == "Constant":
        yield from ((node.output[0], each.t) for each in node.attribute if each.name == "value")


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _shapes(proto: onnx.ModelProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each tensor's name and shape; free sizes are 0."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    for info in (*graph.value_info, *graph.input, *graph.output):
        yield info.name, tuple(axis.dim_value for axis in info.type.tensor_type.shape.dim)
