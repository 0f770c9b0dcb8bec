"""Sessions of one graph share the weights of its convolutions: answers are the same, and memory does not grow."""

import weakref
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.memory.freed import give_back_memory
from resonnx_server.runtime.machine.memory import resident_bytes
from resonnx_server.runtime.model_files import shared_weights
from resonnx_server.runtime.session import CPU, Candidate, Session

_CPU = Candidate(CPU, pb.PRECISION_FP32)
_CHANNELS = 256


def _model(layers: int = 2) -> bytes:
    """3x3 convolutions of 256 channels, 2.4 MB each in float32, and a product with a large constant."""
    rng = np.random.default_rng(0)
    shapes = {f"w{i}": (_CHANNELS, _CHANNELS, 3, 3) for i in range(layers)} | {"m": (_CHANNELS, _CHANNELS)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.02, shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1] * 4) for i in range(layers)]
    nodes += [
        helper.make_node("ReduceMean", [f"x{layers}", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "m"], ["y"]),
    ]
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", _CHANNELS, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", _CHANNELS])
    made = helper.make_graph(nodes, "g", [x], [y], [*weights, axes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def _x(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (rows, _CHANNELS, 4, 4)).astype(np.float32)


def test_sessions_that_share_weights_answer_as_one_that_does_not() -> None:
    model = _model()
    first = Session(model, _CPU, 2, shares=True)
    second, third = first.opened_again(model, 1), first.opened_again(model, spinning=True)
    assert (second.threads, second.spinning) == (1, False)
    assert (third.threads, third.spinning) == (2, True)
    expected = Session(model, _CPU, 1).run({"x0": _x()})["y"]
    # The others stay usable when the first is gone.
    first_answer = first.run({"x0": _x()})["y"]
    del first
    for answer in (first_answer, second.run({"x0": _x()})["y"], third.run({"x0": _x()})["y"]):
        assert np.array_equal(answer, expected)


def test_a_further_session_takes_a_fraction_of_the_weights() -> None:
    model = _model(8)
    first = Session(model, _CPU, 1, shares=True)

    def grown(open_session: Callable[[], Session]) -> float:
        """Return by how much memory grows for a session, as a share of the file."""
        give_back_memory()
        before = resident_bytes()
        opened = [open_session() for _ in range(3)]
        give_back_memory()
        return (resident_bytes() - before) / len(opened) / len(model)

    assert grown(lambda: first.opened_again(model)) < 0.4
    assert grown(lambda: Session(model, _CPU, 1)) > 0.7, "without sharing, each has its own"


def test_the_weights_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shared_weights._copied
    kept = {}
    monkeypatch.setattr(shared_weights, "_copied", lambda large: kept.update(copied(large)) or kept)
    session = Session(_model(1), _CPU, 1, shares=True)
    before = session.run({"x0": _x()})["y"]
    in_place = [value for value in kept.values() if len(value.shape()) == 4]
    assert len(in_place) == 1
    in_place[0].numpy()[:] = 0
    assert before.any()
    assert not session.run({"x0": _x()})["y"].any()


def test_graphs_without_convolutions_are_opened_as_they_are() -> None:
    session = Session(_model(0), _CPU, 1, shares=True)
    assert session._shared is None
    assert np.array_equal(session.run({"x0": _x()})["y"], Session(_model(0), _CPU, 1).run({"x0": _x()})["y"])


def test_a_graph_that_cannot_be_shared_is_opened_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise OSError("no memory")

    monkeypatch.setattr(shared_weights, "_optimised", fails)
    session = Session(_model(), _CPU, 1, shares=True)
    assert session._shared is None
    assert session.run({"x0": _x()})["y"].any()


def test_weights_that_callers_may_override_stay_so() -> None:
    model = onnx.ModelProto.FromString(_model())
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [_CHANNELS, _CHANNELS, 3, 3]))
    session = Session(model.SerializeToString(), _CPU, 1, shares=True)
    assert [spec.name for spec in session.overridable] == ["w1"]
    assert session.run({"x0": _x()})["y"].any()
    assert not session.run({"x0": _x(), "w1": np.zeros((_CHANNELS, _CHANNELS, 3, 3), np.float32)})["y"].any()


def test_a_session_that_is_opened_when_the_others_are_gone_shares_with_the_next() -> None:
    model = _model()
    first = Session(model, _CPU, 1, shares=True)
    opener, graph = first.opener(), weakref.ref(first._shared)
    del first
    assert graph() is None, "the weights live as long as a session"
    second, third = opener(model), opener(model)
    assert second._shared is third._shared is not None
