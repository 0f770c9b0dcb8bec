"""Small ONNX files shaped as public ones (LeNet, AlexNet, VGG, GoogLeNet), as exporters of the time wrote them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 6


class _Writer:
    """Appends nodes to a graph; each method returns the name of its result."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(opset)

    def add(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        names = [f"{kind.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def weight(self, *shape: int) -> str:
        deviation = min(0.4, 1.5 / np.prod(shape[1:]) ** 0.5)
        return self.constant(self._rng.normal(0, deviation, shape).astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, taken: int, given: int, size: int, **attributes: Any) -> str:
        return self.add(
            "Conv",
            [x, self.weight(given, taken, size, size), self.weight(given)],
            kernel_shape=[size] * 2,
            **attributes,
        )

    def conv_relu(self, x: str, taken: int, given: int, size: int = 3) -> str:
        return self.add("Relu", [self.conv(x, taken, given, size, pads=[size // 2] * 4)])

    def max_pool(self, x: str, size: int = 2, **attributes: Any) -> str:
        return self.add("MaxPool", [x], kernel_shape=[size] * 2, strides=[2, 2], **attributes)

    def lrn(self, x: str) -> str:
        return self.add("LRN", [x], size=5, alpha=1e-4, beta=0.75, bias=1.0)

    def dropout(self, x: str) -> str:
        if self.opset < 12:
            return self.add("Dropout", [x], outputs=2, ratio=0.5)
        return self.add("Dropout", [x, self.constant(np.array(0.5, np.float32))])

    def flat(self, x: str, size: int) -> str:
        return self.add("Reshape", [x, self.constant(np.array([-1, size], np.int64))])

    def linear(self, x: str, taken: int, given: int) -> str:
        return self.add("Gemm", [x, self.weight(given, taken), self.weight(given)], transB=1)


def _lenet(g: _Writer, x: str) -> str:
    """With MatMul, Add and padding by name, as CNTK's."""
    for taken, given in ((1, 4), (4, 8)):
        convolved = g.add("Conv", [x, g.weight(given, taken, 5, 5)], kernel_shape=[5, 5], auto_pad="SAME_UPPER")
        x = g.max_pool(g.add("Relu", [g.add("Add", [convolved, g.weight(given, 1, 1)])]))
    product = g.add("MatMul", [g.flat(x, 8 * 7 * 7), g.weight(8 * 7 * 7, CLASSES)])
    return g.add("Add", [product, g.weight(1, CLASSES)])


def _alexnet(g: _Writer, x: str) -> str:
    """With LRN and grouped convolutions, as Caffe's."""
    x = g.max_pool(g.lrn(g.add("Relu", [g.conv(x, 3, 8, 11, strides=[4, 4], pads=[2, 2, 2, 2])])), 3)
    x = g.add("Relu", [g.conv(x, 4, 12, 5, pads=[2, 2, 2, 2], group=2)])
    x = g.add("Flatten", [g.max_pool(x, 3)])
    x = g.dropout(g.add("Relu", [g.linear(x, 12 * 3 * 3, 16)]))
    return g.add("Softmax", [g.linear(x, 16, CLASSES)], axis=1)


def _vgg(g: _Writer, x: str) -> str:
    x = g.max_pool(g.conv_relu(g.conv_relu(x, 3, 6), 6, 6))
    x = g.max_pool(g.conv_relu(g.conv_relu(x, 6, 8), 8, 8))
    x = g.dropout(g.add("Relu", [g.linear(g.add("Flatten", [x]), 8 * 8 * 8, 16)]))
    return g.linear(x, 16, CLASSES)


def _googlenet(g: _Writer, x: str) -> str:
    """With branches that are joined, and a pool over the whole plane."""
    x = g.lrn(g.max_pool(g.conv_relu(x, 3, 8, 7), 3, pads=[0, 0, 1, 1]))
    reduced = [g.conv_relu(x, 8, 3, 1), g.conv_relu(x, 8, 2, 1)]
    branches = [g.conv_relu(x, 8, 4, 1), g.conv_relu(reduced[0], 3, 5), g.conv_relu(reduced[1], 2, 3, 5)]
    pooled = g.add("MaxPool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = g.add("Concat", [*branches, g.conv_relu(pooled, 8, 4, 1)], axis=1)
    x = g.dropout(g.add("AveragePool", [x], kernel_shape=[16, 16]))
    return g.add("Softmax", [g.linear(g.flat(x, 16), 16, CLASSES)], axis=1)


_NETWORKS = {"lenet": (_lenet, (1, 28, 28)), "alexnet": (_alexnet, (3, 63, 63)), "vgg": (_vgg, (3, 32, 32))}
_NETWORKS["googlenet"] = (_googlenet, (3, 32, 32))


def public_network(name: str, opset: int, batch: int | str = "N") -> onnx.ModelProto:
    """Return lenet, alexnet, vgg or googlenet: data [batch,C,H,W] -> prob [batch,CLASSES].

    Files of opset 7 and 8 list their weights as inputs too, as IR version 3 demands.
    """
    build, shape = _NETWORKS[name]
    writer = _Writer(opset)
    writer.add("Identity", [build(writer, "data")])
    writer.nodes[-1].output[0] = "prob"
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, *shape])]
    if opset < 9:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in writer.weights]
    outputs = [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, CLASSES])]
    graph = helper.make_graph(writer.nodes, name, inputs, outputs, writer.weights)
    ir = 3 if opset < 9 else min(10, 4 + (opset - 9) // 2)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model)
    return model
