"""Graphs of the tests of ONNX files."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.onnx_files.network import OnnxNetwork
from resonnx_export.onnx_files.recognised import open_onnx
from resonnx_export.pictures.recipe import Size
from resonnx_proto.v1 import manifest_pb2 as pb

SOFTMAX, NONE = pb.ClassifierSpec.ACTIVATION_SOFTMAX, pb.ClassifierSpec.ACTIVATION_NONE
SIZE = Size(32, 24)


def opened(model: onnx.ModelProto, folder: Path, size: Size = SIZE, **choice: object) -> OnnxNetwork:
    onnx.save(model, folder / "model.onnx")
    return open_onnx(folder / "model.onnx", size, **choice)  # type: ignore[arg-type]


def graph_of(nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], outputs: list[str]) -> onnx.ModelProto:
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in inputs.items()]
    given = [onnx.ValueInfoProto(name=name) for name in outputs]
    values = {"axes": np.array([2, 3]), "rows": np.array([0]), "shape": np.array([-1, 3])}
    constants = [numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "g", taken, given, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


POOL = helper.make_node("ReduceMean", ["x", "axes"], ["pooled"], keepdims=0)
ROWS = helper.make_node("ReduceMean", ["pooled", "rows"], ["mean"])
X: dict[str, list[int | str]] = {"x": ["n", 3, "h", "w"]}
