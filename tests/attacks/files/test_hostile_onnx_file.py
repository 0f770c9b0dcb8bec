"""ONNX files that crash ONNX Runtime, or take all memory or time when they are opened: they are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import child_trial

from ...server import bare_graphs


def _chain(length: int = 5_000) -> bytes:
    """Functions that call each other, deeper than ONNX Runtime's stack: SIGSEGV."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", f"F{i}", ["a"], ["b"], [_call(i + 1, length, "a", "b")], opsets)
        for i in range(length)
    ]
    return _model([_call(0, length, "x", "y")], functions, opsets)


def _call(number: int, length: int, taken: str, given: str) -> "object":
    is_last = number == length
    return helper.make_node("Relu" if is_last else f"F{number}", [taken], [given], domain="" if is_last else "own")


def _constant(elements: int) -> bytes:
    """Some hundred bytes from which ONNX Runtime makes a constant of any size when it opens the file."""
    value = numpy_helper.from_array(np.array([0.001], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["m"], value=value),
        helper.make_node("ReduceSum", ["m"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    return _model(nodes, [], [helper.make_opsetid("", 18)], {"shape": np.array([elements])})


def _model(nodes: list, functions: list, opsets: list, constants: dict[str, np.ndarray] | None = None) -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "hostile", tensors[:1], tensors[1:], initializers)
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def test_a_server_with_a_file_that_crashes_serves_its_other_models(start_server, tmp_path: Path) -> None:
    for name, content in (("good", bare_graphs.doubling()), ("a-chain", _chain())):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/model.onnx").write_bytes(content)
    with start_server(tmp_path) as server:
        status, text = server.get("/readyz")
        assert status == 200
        assert "serving good version 1" in text
        assert "refused a-chain version 1: ONNX Runtime crashes when it opens or runs the file (signal SIG" in text
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: _constant(1 << 31), "takes more than 4096 MiB of memory"),
        (bare_graphs.loop, "takes longer than 1 s"),
        (bare_graphs.folding, "takes longer than 1 s"),
    ],
    ids=["constant", "loop", "folding"],
)
def test_what_takes_too_much_is_refused(
    content: Callable[[], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the check of constants would not have seen."""
    monkeypatch.setattr(child_trial, "usable_memory", lambda: 1 << 40)
    if "longer" in reason:
        monkeypatch.setattr(child_trial, "_LEAST_S", 1)
    with pytest.raises(ModelRefused) as refused:
        child_trial.try_in_child(content())
    assert reason in refused.value.message


def test_a_usual_file_passes() -> None:
    child_trial.try_in_child(bare_graphs.doubling())
