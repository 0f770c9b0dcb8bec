"""ModelStatistics, /metrics and a client that counts agree exactly, whatever became of the requests."""

import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2, status_pb2
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .....conftest import RunningServer
from .... import bare_graphs
from ....observe.metrics_page import read

NAMES = ("doubling", "picky", "loops")
# Kinds of requests, and how many of each are sent.
KINDS = {"success": 14, "shape": 4, "model": 3, "version": 3, "failure": 4, "picky": 4, "deadline": 4, "cancel": 2}


def _picky() -> bytes:
    """It fails on indices of 3 and more."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    data = numpy_helper.from_array(np.arange(3, dtype=np.float32), "data")
    graph = helper.make_graph([helper.make_node("Gather", ["data", "x"], ["y"])], "picky", [x], [y], [data])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("counted")
    for name, content in zip(NAMES, (bare_graphs.doubling(), _picky(), bare_graphs.counting()), strict=True):
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (folder / "config.toml").write_text("[models.doubling]\nallow_timeout_override = true\n")
    with start_server(folder / "models", "--config", str(folder / "config.toml")) as running:
        yield running


class Counting:
    """A client that counts what becomes of its requests."""

    def __init__(self, server: RunningServer, channel: grpc.Channel) -> None:
        self.server = server
        self.stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.lock = threading.Lock()
        self.successes: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        # By model, or "" for calls that no model gets, and reason.
        self.failures: Counter[tuple[str, str]] = Counter()

    def ask(self, request: pb.ModelInferRequest, stream: bool = False, known: bool = True, told: str = "") -> None:
        """Send a request, and count what comes of it; a reason as `told`, where metrics are more specific."""
        if stream:
            (answer,) = self.stub.ModelStreamInfer(iter([request]), timeout=60)
            response = answer.infer_response
            reason = response.parameters["reason"].string_param if answer.error_message else ""
        else:
            reason = ""
            try:
                self.stub.ModelInfer(request, timeout=60)
            except grpc.RpcError as error:
                reason = _reason(error)
        self.count(request, told or reason, known)

    def count(self, request: pb.ModelInferRequest, reason: str, known: bool = True) -> None:
        name = request.model_name
        with self.lock:
            if reason:
                self.failures[name if known else "", reason] += 1
            else:
                self.successes[name] += 1
                self.rows[name] += request.inputs[0].shape[0]

    def cancel(self) -> None:
        """Send a request that runs long, and cancel it when it is known to run, or to wait."""
        request = _request("loops", np.array([500_000], np.int64), "times")
        with self.lock:
            _until(lambda: not self.server.metric("resonnx_requests_in_progress", model="loops"))
            call = self.stub.ModelInfer.future(request)
            _until(lambda: self.server.metric("resonnx_requests_in_progress", model="loops"))
            assert call.cancel()
        self.count(request, "CANCELLED")


def _reason(error: grpc.RpcError) -> str:
    for name, value in error.trailing_metadata():  # type: ignore[attr-defined]
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            assert status_pb2.Status.FromString(value).details[0].Unpack(info)
            return info.reason
    raise AssertionError(error)


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _request(model: str, x: np.ndarray, name: str = "x", version: str = "") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=[x.tobytes()])
    datatype = {"f": "FP32", "i": "INT64"}[x.dtype.kind]
    request.inputs.add(name=name, datatype=datatype, shape=x.shape)
    return request


def _act(client: Counting, kind: str, rng: random.Random) -> None:
    rows, stream = rng.choice([1, 2, 5, 16, 40]), rng.random() < 0.4
    x = np.zeros((rows, 3), np.float32)
    if kind == "success":
        client.ask(_request("doubling", x), stream)
    elif kind == "shape":
        client.ask(_request("doubling", x[:, :2]), stream)
    elif kind == "model":
        client.ask(_request("nobody", x), stream, known=False)
    elif kind == "version":
        client.ask(_request("doubling", x, version="7"), stream, known=False, told="VERSION_NOT_FOUND")
    elif kind == "deadline":
        request = _request("doubling", x)
        request.parameters["timeout"].int64_param = 1
        client.ask(request, stream)
    elif kind == "cancel":
        client.cancel()
    else:
        indices = np.full((rows, 1), 2 if kind == "picky" else 3, np.int64)
        client.ask(_request("picky", indices), stream)


def _statistics(server: RunningServer, *arguments: str) -> dict[str, Any]:
    with triton.InferenceServerClient(server.grpc) as client:
        return {stats.name: stats for stats in client.get_inference_statistics(*arguments).model_stats}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_all_agree_after_any_mix(server: RunningServer, seed: int) -> None:
    rng = random.Random(seed)
    before, rejected_before = _counts(server), _rejected(server)
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(4) as threads:
        client = Counting(server, channel)
        kinds = [kind for kind, times in KINDS.items() for _ in range(times)]
        rng.shuffle(kinds)
        for done in [threads.submit(_act, client, kind, random.Random(rng.random())) for kind in kinds]:
            done.result()
        _until(lambda: not server.metric("resonnx_requests_in_progress"))
        # Batches of cancelled requests end later.
        _until(lambda: not server.metric("nv_inference_pending_request_count"))
        client.ask(_request("loops", np.array([1], np.int64), "times"))
    assert client.failures["loops", "CANCELLED"]
    statistics, after = _statistics(server), _counts(server)
    for name in NAMES:
        stats, counts = statistics[name], after[name]
        inference = stats.inference_stats
        gained = {key: value - before[name].get(key, 0) for key, value in counts.items()}
        failures = {reason: count for (model, reason), count in client.failures.items() if model == name}
        # The client and the metrics.
        assert gained["success"] == client.successes[name]
        assert {key[1]: value for key, value in gained.items() if key[0] == "error" and value} == failures
        if name != "loops":
            assert gained["rows"] == client.rows[name]
        # The metrics and the statistics.
        failed = sum(value for key, value in counts.items() if key[0] == "error")
        assert counts["success"] == inference.success.count == inference.queue.count == inference.compute_infer.count
        assert counts["failed"] == failed == inference.fail.count
        assert (counts["rows"], counts["executions"]) == (stats.inference_count, stats.execution_count)
        assert counts["request_us"] == inference.success.ns // 1000
        assert counts["queue_us"] == inference.queue.ns // 1000
        assert counts["infer_us"] == inference.compute_infer.ns // 1000
        # Within the statistics.
        batches = stats.batch_stats
        assert sum(batch.batch_size * batch.compute_infer.count for batch in batches) == stats.inference_count
        for phase in ("compute_input", "compute_infer", "compute_output"):
            assert sum(getattr(batch, phase).count for batch in batches) == stats.execution_count
        assert inference.cache_hit.count == inference.cache_miss.count == 0
        assert stats.last_inference <= time.time() * 1000
    gained = {reason: count - rejected_before[reason] for reason, count in _rejected(server).items()}
    assert {reason: count for reason, count in gained.items() if count} == {
        reason: count for (model, reason), count in client.failures.items() if not model
    }


def _counts(server: RunningServer) -> dict[str, dict[Any, float]]:
    """Return the counters of /metrics by model."""
    page = read(server.get("/metrics")[1], openmetrics=False)
    metrics = {
        "success": "nv_inference_request_success",
        "failed": "nv_inference_request_failure",
        "rows": "nv_inference_count",
        "executions": "nv_inference_exec_count",
        "request_us": "nv_inference_request_duration_us",
        "queue_us": "nv_inference_queue_duration_us",
        "infer_us": "nv_inference_compute_infer_duration_us",
    }
    counts: dict[str, dict[Any, float]] = {name: Counter() for name in NAMES}
    for key, metric in metrics.items():
        for (_, labels), value in page[metric].samples.items():
            counts[dict(labels)["model"]][key] += value
    if "resonnx_request_errors_total" in page:
        for (_, labels), value in page["resonnx_request_errors_total"].samples.items():
            counts[dict(labels)["model"]]["error", dict(labels)["reason"]] = value
    return counts


def _rejected(server: RunningServer) -> dict[str, float]:
    page = read(server.get("/metrics")[1], openmetrics=False)
    return {
        dict(labels)["reason"]: value for (_, labels), value in page["resonnx_rejected_calls_total"].samples.items()
    }


def test_filters(server: RunningServer) -> None:
    assert _statistics(server).keys() == {*NAMES}
    assert _statistics(server, "picky").keys() == _statistics(server, "picky", "1").keys() == {"picky"}
    for arguments, message in ((("nobody",), "not in the repository"), (("picky", "2"), "has no version 2")):
        with pytest.raises(triton.InferenceServerException, match=message) as refused:
            _statistics(server, *arguments)
        assert refused.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.usefixtures("demo_server")
def test_words_of_a_stream_are_counted_by_their_index(demo_server, samples: Path, truth) -> None:
    file = next((samples / name).read_bytes() for name, entry in truth.items() if entry["model"] == "scenes")
    request = pb.ModelInferRequest(model_name="scenes", raw_input_contents=[struct.pack("<I", len(file)) + file])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.parameters["stream"].bool_param = True
    before = _statistics(demo_server, "scenes")["scenes"].response_stats
    with grpc.insecure_channel(demo_server.grpc) as channel:
        answers = list(grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request])))
    after = _statistics(demo_server, "scenes")["scenes"].response_stats
    counted = {key: value.success.count - before[key].success.count for key, value in after.items()}
    assert {key for key, count in counted.items() if count} == {str(index) for index in range(len(answers))}
    assert all(value.success.ns > 0 for value in after.values())
