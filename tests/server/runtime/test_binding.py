"""Runs whose tensors stay on the device, on the CPU provider; and what a session asks of a GPU's providers."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.latency_cache import CachedTable, LatencyCache
from resonnx_server.runtime import session
from resonnx_server.runtime.binding import run_bound, to_device
from resonnx_server.runtime.machine import host
from resonnx_server.runtime.session import CPU, CUDA, TENSORRT, Candidate, Session
from resonnx_server.scheduling.measurement import Measured


def _model() -> bytes:
    tensor = helper.make_tensor_value_info
    inputs = [tensor("x", TensorProto.FLOAT, ["n", 2]), tensor("y", TensorProto.FLOAT, ["n", 2])]
    outputs = [tensor(name, TensorProto.FLOAT, ["n", 2]) for name in ("sum", "difference")]
    nodes = [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("Sub", ["x", "y"], ["difference"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    opset = [helper.make_opsetid("", 18)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return model


@pytest.fixture(scope="module")
def graph() -> Session:
    return Session(_model(), Candidate(CPU, pb.PRECISION_FP32), 1)


def test_outputs_go_to_the_host_or_stay(graph: Session) -> None:
    x, y = np.random.default_rng(0).random((2, 5, 2), np.float32)
    fetched, kept = run_bound(graph, {"x": x[::-1]}, {"y": to_device(y, "cpu")}, ["difference"], ["sum"])
    assert np.array_equal(fetched["difference"], x[::-1] - y)
    assert np.array_equal(kept["sum"].value.numpy(), x[::-1] + y)
    assert kept["sum"].rows == 5
    assert kept["sum"].value.device_name() == "cpu"
    assert run_bound(graph, {"x": x, "y": y}, {}, (), ("sum",))[0] == {}


def test_what_one_run_keeps_the_next_takes_and_nothing_is_held_longer(graph: Session) -> None:
    one = np.ones((3, 2), np.float32)
    state = to_device(np.zeros((3, 2), np.float32), "cpu")
    seen = []
    for number in range(5):
        seen.append(weakref.ref(state.value))
        fetched, kept = run_bound(graph, {"y": one}, {"x": state}, ["difference"], ["sum"])
        assert (fetched["difference"] == number - 1).all()
        state = kept["sum"]
    gc.collect()
    assert (state.value.numpy() == 5).all()
    assert [reference() for reference in seen] == [None] * 5


def test_a_run_that_fails_says_so(graph: Session) -> None:
    with pytest.raises(Exception, match="Missing Input: y"):
        run_bound(graph, {"x": np.ones((3, 2), np.float32)}, {}, ["sum"], [])
    with pytest.raises(Exception, match=r"double.*float|[Tt]ype"):
        run_bound(graph, {"x": np.ones((3, 2), np.float64), "y": np.ones((3, 2), np.float32)}, {}, ["sum"], [])


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_gpu_that_is_not_there_is_refused_and_nothing_else_is_taken(
    provider: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ModelRefused, match=r"cannot load the graph|did not accept"):
        Session(_model(), Candidate(provider, pb.PRECISION_FP32), 1, cache=tmp_path)
    assert capfd.readouterr().out == ""


def test_providers_of_a_gpu_get_their_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the words that ONNX Runtime's documentation has; it takes no others."""
    asked = []

    class Opened:
        def __init__(self, _: bytes, options: object, **more: object) -> None:
            asked.append(more)

        def get_providers(self) -> list[str]:
            return [TENSORRT, CUDA, CPU]

        def get_inputs(self) -> list[object]:
            return []

        get_outputs = get_overridable_initializers = get_inputs

    monkeypatch.setattr(session.ort, "InferenceSession", Opened)
    on_tensorrt = Session(b"model", Candidate(TENSORRT, pb.PRECISION_FP16), 1, cache=tmp_path)
    on_cuda = Session(b"model", Candidate(CUDA, pb.PRECISION_TF32), 1, cache=tmp_path)
    assert on_tensorrt.device == on_cuda.device == "cuda"
    (tensorrt, options), (beside, cuda), last = asked[0]["providers"]
    assert (tensorrt, beside, last) == (TENSORRT, CUDA, (CPU, {}))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("True", "False")
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    engines = Path(options["trt_engine_cache_path"])
    assert engines.is_dir()
    assert engines.parent == tmp_path
    assert cuda["use_tf32"] == "0"
    assert asked[1]["providers"][0] == (CUDA, {**cuda, "use_tf32": "1"})
    assert [more["enable_fallback"] for more in asked] == [0, 0]
    Session(b"another", Candidate(TENSORRT, pb.PRECISION_FP16), 1, cache=tmp_path)
    assert asked[2]["providers"][0][1]["trt_engine_cache_path"] != str(engines), "another graph's engines"
    Session(b"model", Candidate(TENSORRT, pb.PRECISION_FP16), 1)
    assert not [option for option in asked[3]["providers"][0][1] if "cache" in option]
    (tmp_path / "file").touch()
    Session(b"model", Candidate(TENSORRT, pb.PRECISION_FP16), 1, cache=tmp_path / "file")
    assert not [option for option in asked[4]["providers"][0][1] if "cache" in option]


def test_what_was_measured_on_one_gpu_is_not_taken_for_another(
    graph: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gpu(name: str) -> Path:
        folder = tmp_path / name / "0000:01:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t 42\n")
        return tmp_path / name

    assert host.gpu_models(gpu("NVIDIA T4")) == ("NVIDIA T4",)
    assert host.gpu_models(tmp_path / "nothing") == ()
    cache = LatencyCache.open(tmp_path / "tables", 2)
    kept = CachedTable({1: Measured(5.0, 0.5)})
    cache.put("digest", graph, kept, 1)
    assert cache.get("digest", graph, (1,), 1) == kept
    monkeypatch.setattr("resonnx_server.repository.latency_cache.gpu_models", lambda: ("NVIDIA T4",))
    assert LatencyCache.open(tmp_path / "tables", 2).get("digest", graph, (1,), 1) is None
