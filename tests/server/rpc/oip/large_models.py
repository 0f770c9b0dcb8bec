"""Bare ONNX models that take and give large tensors of every kind."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT64": TensorProto.UINT64,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
OUTPUTS = 300
SPREAD = 1 << 16


def write(repository: Path) -> None:
    """Write the models.

    `copy_<datatype>`: x [1,m] to y [1,m]. `make_<FP32|BYTES>`: count INT64 [1] to y [m]. `wide`: x [n,1000] to y.
    `spread`: x [n,1] to y [n,SPREAD]. `many`: x [1,m] to OUTPUTS outputs.
    """
    value = helper.make_tensor_value_info
    for name, kind in TYPES.items():
        identity = helper.make_node("Identity", ["x"], ["y"])
        _write(repository, f"copy_{name}", [identity], [value("x", kind, [1, "m"])], [value("y", kind, [1, "m"])])
    for name, kind, one in (("FP32", TensorProto.FLOAT, [0.5]), ("BYTES", TensorProto.STRING, [b"abc"])):
        expand = helper.make_node("Expand", ["one", "count"], ["y"])
        count, made = value("count", TensorProto.INT64, [1]), value("y", kind, ["m"])
        _write(repository, f"make_{name}", [expand], [count], [made], [helper.make_tensor("one", kind, [1], one)])
    identity = helper.make_node("Identity", ["x"], ["y"])
    rows = [value(name, TensorProto.FLOAT, ["n", 1000]) for name in "xy"]
    _write(repository, "wide", [identity], rows[:1], rows[1:])
    rows = [value("x", TensorProto.FLOAT, ["n", 1]), value("y", TensorProto.FLOAT, ["n", SPREAD])]
    times, ones = helper.make_node("Mul", ["x", "ones"], ["y"]), np.ones((1, SPREAD), np.float32)
    _write(repository, "spread", [times], rows[:1], rows[1:], [numpy_helper.from_array(ones, "ones")])
    copies = [helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(OUTPUTS)]
    outputs = [value(f"y{i}", TensorProto.FLOAT, [1, "m"]) for i in range(OUTPUTS)]
    _write(repository, "many", copies, [value("x", TensorProto.FLOAT, [1, "m"])], outputs)


def _write(
    repository: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto] | None = None,
) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    graph = helper.make_graph(nodes, name, inputs, outputs, constants or [])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
