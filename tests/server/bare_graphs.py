"""Small graphs without a manifest: one that serves, and some that do not end while they are opened, or when run."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
_Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])


def doubling() -> bytes:
    """Twice what comes in: loads in no time."""
    return _model([helper.make_node("Add", ["x", "x"], ["y"])], {})


def doubling_any() -> bytes:
    """Twice what comes in, rows of any length."""
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "small", sizes[:1], sizes[1:])
    return _saved(graph)


def doubling_wide(floats: int) -> bytes:
    """Twice what comes in, rows of `floats` numbers."""
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", floats]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "small", sizes[:1], sizes[1:])
    return _saved(graph)


def loop() -> bytes:
    """A loop of 2^62 turns in each run."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["start"], keepdims=0),
        helper.make_node("Loop", ["turns", "go", "start"], ["total"], body=body),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    constants = {"turns": np.array(2**62), "go": np.array(True)}
    return _model(nodes, constants)


def counting() -> bytes:
    """Loops as often as its input says; ONNX Runtime can end it between two turns."""

    def scalars(**kinds: int) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()]

    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Add", ["x_in", "one"], ["x_out"])],
        "body",
        scalars(i=TensorProto.INT64, go_in=TensorProto.BOOL, x_in=TensorProto.FLOAT),
        scalars(go_out=TensorProto.BOOL, x_out=TensorProto.FLOAT),
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    start = (("go", TensorProto.BOOL, True), ("zero", TensorProto.FLOAT, 0.0))
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "go", "zero"], ["y"], body=body)],
        "loops",
        [helper.make_tensor_value_info("times", TensorProto.INT64, [1])],
        scalars(y=TensorProto.FLOAT),
        [helper.make_tensor(name, kind, [], [value]) for name, kind, value in start],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return content


def picky() -> bytes:
    """It fails on indices of 3 and more."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    data = numpy_helper.from_array(np.arange(3, dtype=np.float32), "data")
    graph = helper.make_graph([helper.make_node("Gather", ["data", "x"], ["y"])], "picky", [x], [y], [data])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def folding() -> bytes:
    """Constants that take minutes to fold when a session is opened, which cannot be ended meanwhile."""
    value = numpy_helper.from_array(np.array([0.001], np.float32))
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=value)]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(500)]
    nodes += [
        helper.make_node("ReduceSum", ["m500"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    return _model(nodes, {"shape": np.array([2500, 2500])})


def mixing(width: int, layers: int = 12) -> bytes:
    """Rows x [n,width] that take some time each, and have one value y [n]."""
    matrix = np.random.default_rng(0).normal(0, width**-0.5, (width, width)).astype(np.float32)
    names = ["x", *(f"x{i}" for i in range(layers))]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(layers)]
    nodes.append(helper.make_node("ReduceMean", [names[-1], "axes"], ["y"], keepdims=0))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    constants = [numpy_helper.from_array(matrix, "w"), numpy_helper.from_array(np.array([1]), "axes")]
    return _saved(helper.make_graph(nodes, "mixing", [x], [y], constants))


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return _saved(helper.make_graph(nodes, "small", [_X], [_Y], initializers))


def _saved(graph: onnx.GraphProto) -> bytes:
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()
    return content
