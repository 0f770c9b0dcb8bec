"""Sessions are opened with their weights apart: answers are the same, and the GIL is not held while they are copied."""

import sys
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files import weights_apart
from resonnx_server.runtime.model_files.weights_apart import FREES_GIL, without_weights
from resonnx_server.runtime.session import CPU, Candidate, Session

_CPU = Candidate(CPU, pb.PRECISION_FP32)
_SIDE = 160


def _model(layers: int = 2, side: int = _SIDE, inputs: tuple[onnx.ValueInfoProto, ...] = ()) -> onnx.ModelProto:
    """Layers of matrix products with weights [side, side], and a product with one small constant."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.1, (side, side)).astype(np.float32), f"w{i}") for i in range(layers)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    nodes.append(helper.make_node("Mul", [f"x{layers}", "two"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", side]) for name in ("x0", "y"))
    constants = [*weights, numpy_helper.from_array(np.array(2, np.float32), "two")]
    made = helper.make_graph(nodes, "g", [x, *inputs], [y], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _x(side: int = _SIDE) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (3, side)).astype(np.float32)


def _inside(model: bytes, monkeypatch: pytest.MonkeyPatch, **feeds: np.ndarray) -> np.ndarray:
    """Return the answer of a session that was opened from the whole file."""
    with monkeypatch.context() as patched:
        patched.setattr(weights_apart, "without_weights", lambda _: None)
        return Session(model, _CPU, 1).run(feeds)["y"]


def test_the_file_without_weights_is_small_and_refers_to_ranges_of_the_whole() -> None:
    model = _model().SerializeToString()
    small = without_weights(model)
    assert small is not None
    assert len(small) < 2000
    for tensor, whole in zip(
        onnx.ModelProto.FromString(small).graph.initializer, _model().graph.initializer, strict=True
    ):
        assert (tensor.name, tensor.dims, tensor.data_type) == (whole.name, whole.dims, whole.data_type)
        if tensor.name == "two":
            assert tensor == whole
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        start = int(entries["offset"])
        assert model[start : start + int(entries["length"])] == whole.raw_data


@pytest.mark.parametrize("optimise", [True, False])
def test_answers_are_those_of_the_whole_file(monkeypatch: pytest.MonkeyPatch, *, optimise: bool) -> None:
    model = _model().SerializeToString()
    assert without_weights(model)
    opened: list[int] = []
    make = weights_apart.ort.InferenceSession
    monkeypatch.setattr(
        weights_apart.ort,
        "InferenceSession",
        lambda given, *args, **more: opened.append(len(given)) or make(given, *args, **more),
    )
    found = Session(model, _CPU, 1, optimise=optimise).run({"x0": _x()})["y"]
    assert len(opened) == 1
    assert (opened[0] < 2000) == FREES_GIL, "it is opened from the small file where that frees the GIL"
    assert np.array_equal(found, _inside(model, monkeypatch, x0=_x()))


def test_a_weight_that_callers_may_override_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = helper.make_tensor_value_info("w1", TensorProto.FLOAT, [_SIDE, _SIDE])
    model = _model(inputs=(shared,)).SerializeToString()
    session = Session(model, _CPU, 1)
    assert [spec.name for spec in session.overridable] == ["w1"]
    assert np.array_equal(session.run({"x0": _x()})["y"], _inside(model, monkeypatch, x0=_x()))
    assert not session.run({"x0": _x(), "w1": np.zeros((_SIDE, _SIDE), np.float32)})["y"].any()


def test_what_has_no_large_weights_stays_as_it_is() -> None:
    shape = numpy_helper.from_array(np.arange(20_000), "w0")
    model = _model(1)
    model.graph.initializer[0].CopyFrom(shape)
    assert without_weights(model.SerializeToString()) is None
    assert without_weights(_model(side=8).SerializeToString()) is None
    for damaged in (b"", b"\x00", _model().SerializeToString()[:-1000]):
        assert without_weights(damaged) is None


def test_a_weight_of_a_wrong_size_is_refused_as_in_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    model.graph.initializer[0].raw_data += bytes(4)
    content = model.SerializeToString()
    assert without_weights(content)
    with pytest.raises(ModelRefused) as whole:
        _inside(content, monkeypatch, x0=_x())
    with pytest.raises(ModelRefused) as apart:
        Session(content, _CPU, 1)
    assert apart.value.message == whole.value.message


@pytest.mark.skipif(not FREES_GIL, reason="this ONNX Runtime is given whole files")
def test_the_gil_is_not_held_while_weights_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with opening the whole file on the same machine, at the same time."""
    model = _model(8, side=1024).SerializeToString()

    def longest_s(opened_inside: bool) -> float:
        over, pauses = threading.Event(), [0.0]

        def look() -> None:
            last = time.perf_counter()
            while not over.is_set():
                time.sleep(1e-4)
                pauses.append((now := time.perf_counter()) - last)
                last = now

        looking = threading.Thread(target=look)
        looking.start()
        if opened_inside:
            _inside(model, monkeypatch, x0=_x(1024))
        else:
            Session(model, _CPU, 1)
        over.set()
        looking.join()
        return max(pauses)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        inside = min(longest_s(True) for _ in range(3))
        # Other processes hold the thread up as well: one opening without them is enough.
        assert any(longest_s(False) < inside / 2 for _ in range(30))
    finally:
        sys.setswitchinterval(interval)
