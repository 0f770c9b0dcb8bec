"""Constants that ONNX Runtime would compute when it opens a file are bounded before."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.constants import check as constants
from resonnx_server.runtime.model_files.constants.check import check_constants

LARGE = 1 << 28


def model(nodes: list[NodeProto], given: dict[str, np.ndarray], functions: Sequence[onnx.FunctionProto] = ()) -> bytes:
    """Return a graph of nodes, whose last output is "c", from x to y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    ends = [helper.make_node("ReduceMax", ["c"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    tensors = [numpy_helper.from_array(array, name) for name, array in given.items()]
    graph = helper.make_graph([*nodes, *ends], "g", [x], [y], tensors)
    return helper.make_model(graph, functions=functions).SerializeToString()  # type: ignore[no-any-return]


def node(operator: str, *inputs: str, output: str = "c", **attributes: object) -> NodeProto:
    return helper.make_node(operator, inputs, [output], f"a_{operator}", **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _in_a_branch() -> bytes:
    branch = helper.make_graph(
        [node("ConstantOfShape", "s")], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)]
    )
    return model([node("If", "on", then_branch=branch, else_branch=branch)], {"on": np.array(True), "s": ints(LARGE)})


def _in_two_parts() -> bytes:
    """Protobuf merges messages that a file has twice."""
    whole = onnx.load_model_from_string(HOSTILE["ConstantOfShape"]())
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.graph.initializer.extend(whole.graph.initializer)
    second.graph.node.extend(whole.graph.node)
    content: bytes = first.SerializeToString() + second.SerializeToString()
    return content


def _in_another_order() -> bytes:
    """ONNX Runtime sorts nodes."""
    whole = onnx.load_model_from_string(HOSTILE["a computed shape"]())
    nodes = [*reversed(whole.graph.node)]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    content: bytes = whole.SerializeToString()
    return content


def _with_an_unknown_field() -> bytes:
    """A number where the node's inputs are, which protobuf ignores."""
    whole = onnx.load_model_from_string(HOSTILE["ConstantOfShape"]())
    whole.graph.node[0].ParseFromString(b"\x08\x05" + whole.graph.node[0].SerializeToString())
    content: bytes = whole.SerializeToString()
    return content


def _in_a_function() -> bytes:
    shape = helper.make_node("Constant", [], ["s"], value_ints=[LARGE])
    function = helper.make_function(
        "own", "F", [], ["c"], [shape, node("ConstantOfShape", "s")], [helper.make_opsetid("", 18)]
    )
    return model([helper.make_node("F", [], ["c"], domain="own")], {}, [function])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "ConstantOfShape": lambda: model([node("ConstantOfShape", "s")], {"s": ints(1 << 14, 1 << 14)}),
    "in int64_data": lambda: model(
        [
            node("Constant", output="s", value=helper.make_tensor("v", TensorProto.INT64, [1], [LARGE])),
            node("ConstantOfShape", "s"),
        ],
        {},
    ),
    "Expand": lambda: model([node("Expand", "a", "s")], {"a": np.ones(1, np.float32), "s": ints(LARGE)}),
    "Tile": lambda: model([node("Tile", "a", "s")], {"a": np.ones((2, 2), np.float32), "s": ints(1 << 14, 1 << 13)}),
    "Range": lambda: model(
        [node("Range", "a", "l", "d")], {"a": np.array(0.0), "l": np.array(1e9), "d": np.array(2.0)}
    ),
    "a broadcast": lambda: model(
        [node("Add", "a", "b")], {"a": np.ones((1 << 14, 1), np.float32), "b": np.ones((1, 1 << 14), np.float32)}
    ),
    "a product": lambda: model(
        [node("MatMul", "a", "b")], {"a": np.ones((1 << 14, 1), np.float32), "b": np.ones((1, 1 << 14), np.float32)}
    ),
    "a computed shape": lambda: model(
        [node("Mul", "s", "s", output="t"), node("Concat", "t", "t", output="u", axis=0), node("ConstantOfShape", "u")],
        {"s": ints(1 << 7)},
    ),
    "one after another": lambda: model(
        [node("Tile", "a", "s", output="t"), node("Tile", "t", "s")], {"a": np.ones(1, np.float32), "s": ints(1 << 14)}
    ),
    "several": lambda: model(
        [
            node("ConstantOfShape", "s", output="t"),
            node("ConstantOfShape", "s", output="u"),
            node("Add", "t", "u"),
        ],
        {"s": ints(constants.MAX_ELEMENTS // 2 + 1)},
    ),
    "a branch": _in_a_branch,
    "a function": _in_a_function,
    "two parts": _in_two_parts,
    "another order": _in_another_order,
    "an unknown field": _with_an_unknown_field,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_large_constants_are_refused(kind: str) -> None:
    with pytest.raises(ModelRefused, match=r"node 'a_\w+' .* may add 134217728 elements"):
        check_constants(HOSTILE[kind]())


@pytest.mark.parametrize(
    "content",
    [
        model([node("ConstantOfShape", "s")], {"s": ints(1 << 10, 1 << 10)}),
        # Of the input: computed when the graph runs.
        model(
            [node("Shape", "x", output="t"), node("Mul", "t", "s", output="u"), node("Expand", "x", "u")],
            {"s": ints(LARGE)},
        ),
        # Shapes that none are: ONNX Runtime refuses them.
        model([node("ConstantOfShape", "s")], {"s": ints(-1)}),
        model([node("Tile", "a", "s")], {"a": np.ones(2, np.float32), "s": ints(1, 2)}),
        model([node("Range", "a", "a", "a")], {"a": np.array(0.0)}),
        # A scalar, and a constant without elements.
        model([node("ConstantOfShape", "s")], {"s": ints()}),
        model([node("Mul", "a", "s")], {"a": np.ones((0, 1), np.float32), "s": ints(LARGE)}),
    ],
)
def test_others_pass(content: bytes) -> None:
    check_constants(content)


def test_many_nodes_take_linear_time() -> None:
    nodes = [node("Add", f"a{number}", "s", output=f"a{number + 1}") for number in range(5000)]
    content = model([*reversed(nodes), node("ConstantOfShape", "a5000")], {"a0": ints(1), "s": ints(1)})
    began = time.process_time()
    check_constants(content)
    assert time.process_time() - began < 3


def test_shapes_without_elements_do_not_grow_for_ever() -> None:
    nodes = [node("Tile", f"a{number}", "s", output=f"a{number + 1}") for number in range(5000)]
    began = time.process_time()
    check_constants(model(nodes, {"a0": np.ones((0, 1), np.float32), "s": ints(1, 1 << 62)}))
    assert time.process_time() - began < 3
    tensor = onnx.TensorProto(name="a", data_type=TensorProto.FLOAT, dims=[1 << 62] * 10_000)
    graph = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()
    with pytest.raises(ModelRefused, match="more than 64 axes"):
        check_constants(graph)


def test_a_long_list_is_no_shape() -> None:
    """What is not read of it must not make a shape of the rest."""
    nodes = [node("Constant", output="s", value_ints=[1] * 65 + [LARGE]), node("ConstantOfShape", "s")]
    check_constants(model(nodes, {}))
    check_constants(
        model([node("Concat", *["s"] * 70, output="t", axis=0), node("ConstantOfShape", "t")], {"s": ints(2)})
    )


def test_files_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    content = model([node("ConstantOfShape", "s")], {"s": ints(2)})
    for end in range(1, len(content) - 1, 7):
        with suppress(ModelRefused):
            check_constants(content[:end])
    with pytest.raises(ModelRefused, match="damaged"):
        check_constants(content[:-1])
    monkeypatch.setattr(constants, "_MAX_FIELDS", 10)
    with pytest.raises(ModelRefused, match="more than 10 fields"):
        check_constants(content)
