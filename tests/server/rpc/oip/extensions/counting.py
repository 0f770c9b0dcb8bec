"""A client that counts what becomes of its requests, and the counters of /metrics and ModelStatistics beside it."""

import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .....conftest import RunningServer
from ....observe.metrics_page import read

# Some 6 s of one processor: where cores are busy, steps that take 0.4 s have taken more than 1.
LOOPS = 3_000_000
# In place of a model's name for calls that no model gets.
NOBODY = ""
_METRICS = {
    "success": "nv_inference_request_success",
    "failed": "nv_inference_request_failure",
    "rows": "nv_inference_count",
    "executions": "nv_inference_exec_count",
    "request_us": "nv_inference_request_duration_us",
    "queue_us": "nv_inference_queue_duration_us",
    "infer_us": "nv_inference_compute_infer_duration_us",
}
Counts = dict[str, dict[Any, float]]


class Counting:
    """A client that counts its requests by outcome. Thread-safe.

    Args:
        server: Is asked.
        channel: To its gRPC port.
        key: Sent with requests; "" for none.
    """

    def __init__(self, server: RunningServer, channel: grpc.Channel, key: str = "") -> None:
        self.server = server
        self.stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.key = key
        self.lock = threading.Lock()
        self.successes: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        # By model, or NOBODY, and reason.
        self.failures: Counter[tuple[str, str]] = Counter()
        self._looping = threading.Lock()

    def ask(
        self,
        request: pb.ModelInferRequest,
        stream: bool = False,
        known: bool = True,
        told: str = "",
        key: str | None = None,
    ) -> str:
        """Send a request, count what comes of it, and return the reason of its failure.

        Args:
            request: The request.
            stream: Send it by a stream.
            known: A model gets it.
            told: The reason of a failure in metrics, where it is more specific than the answer's.
            key: In place of the client's; "" for none.
        """
        metadata = credentials(self.key if key is None else key)
        reason = ""
        try:
            if stream:
                (answer,) = self.stub.ModelStreamInfer(iter([request]), timeout=60, metadata=metadata)
                if answer.error_message:
                    reason = answer.infer_response.parameters["reason"].string_param
            else:
                self.stub.ModelInfer(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            reason = reason_of(error)
        rows = request.inputs[0].shape[0] if request.inputs else 0
        self.count(request.model_name if known else NOBODY, (reason and told) or reason, rows)
        return reason

    def count(self, name: str, reason: str, rows: int = 1) -> None:
        """Count a request for a model, or for NOBODY: a success without a reason."""
        with self.lock:
            if reason:
                self.failures[name, reason] += 1
            else:
                self.successes[name] += 1
                self.rows[name] += rows

    def cancel(self, meanwhile: Callable[[], object] = lambda: None, key: str | None = None) -> None:
        """Send a request of the model `loops` that runs long, and cancel it when it is known to run, or to wait.

        Args:
            meanwhile: Called before it is cancelled.
            key: In place of the client's.
        """
        with self._looping:
            until(lambda: not self.server.metric("resonnx_requests_in_progress", model="loops"))
            metadata = credentials(self.key if key is None else key)
            call = self.stub.ModelInfer.future(looping(), metadata=metadata)
            until(lambda: self.server.metric("resonnx_requests_in_progress", model="loops"))
            meanwhile()
            assert call.cancel()
        self.count("loops", "CANCELLED")

    def settle(self) -> None:
        """Wait until the server has ended all requests, and the batches of those that were cancelled."""
        until(lambda: not self.server.metric("resonnx_requests_in_progress"))
        until(lambda: not self.server.metric("nv_inference_pending_request_count"))
        self.ask(request("loops", np.array([1], np.int64), "times"))


def credentials(key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata with a key."""
    return (("authorization", f"Bearer {key}"),) if key else ()


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason in an error's details."""
    for name, value in error.trailing_metadata():  # type: ignore[attr-defined]
        if name == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            assert status_pb2.Status.FromString(value).details[0].Unpack(info)
            return str(info.reason)
    raise AssertionError(error)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def request(model: str, x: np.ndarray, name: str = "x", version: str = "", **parameters: int) -> pb.ModelInferRequest:
    """Return a request with one input."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=[x.tobytes()])
    datatype = {"f": "FP32", "i": "INT64"}[x.dtype.kind]
    message.inputs.add(name=name, datatype=datatype, shape=x.shape)
    for parameter, value in parameters.items():
        message.parameters[parameter].int64_param = value
    return message


def looping() -> pb.ModelInferRequest:
    """Return a request that runs much longer than what tests do meanwhile."""
    return request("loops", np.array([LOOPS], np.int64), "times")


def picture_request(model: str, file: bytes) -> pb.ModelInferRequest:
    """Return a request for a picture."""
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[struct.pack("<I", len(file)) + file])
    message.inputs.add(name="image", datatype="BYTES", shape=[1])
    return message


def counts(server: RunningServer, names: Iterable[str]) -> Counts:
    """Return the counters of /metrics by model; those of rejected calls are NOBODY's errors."""
    page = read(server.get("/metrics")[1], openmetrics=False)
    found: Counts = {name: Counter() for name in (*names, NOBODY)}
    for key, metric in _METRICS.items():
        for (_, labels), value in page[metric].samples.items():
            found[dict(labels)["model"]][key] += value
    for metric in ("resonnx_request_errors_total", "resonnx_rejected_calls_total"):
        for (_, labels), value in page[metric].samples.items() if metric in page else ():
            found[dict(labels).get("model", NOBODY)]["error", dict(labels)["reason"]] = value
    return found


def statistics(server: RunningServer, *arguments: str, key: str = "") -> dict[str, Any]:
    """Return the answer of ModelStatistics by model."""
    headers = dict(credentials(key))
    with triton.InferenceServerClient(server.grpc) as client:
        found = client.get_inference_statistics(*arguments, headers=headers).model_stats
    return {stats.name: stats for stats in found}


def assert_agree(client: Counting, before: Counts, after: Counts, stats_of: dict[str, Any]) -> None:
    """Assert that a client, the metrics before and after its requests, and the statistics agree."""
    for name, now in after.items():
        gained = {key: value - before[name].get(key, 0) for key, value in now.items()}
        # The client and the metrics.
        failures = {reason: count for (model, reason), count in client.failures.items() if model == name}
        assert {key[1]: value for key, value in gained.items() if key[0] == "error" and value} == failures, name
        if name == NOBODY:
            continue
        assert gained["success"] == client.successes[name], name
        # Whether a request has run that was cancelled, or that had no memory for its answer, is not known.
        unsure = sum(failures.get(reason, 0) for reason in ("CANCELLED", "MEMORY_SPENT"))
        assert client.rows[name] <= gained["rows"] <= client.rows[name] + unsure, name
        # The metrics and the statistics.
        stats = stats_of[name]
        inference = stats.inference_stats
        failed = sum(value for key, value in now.items() if key[0] == "error")
        assert now["success"] == inference.success.count == inference.queue.count == inference.compute_infer.count
        assert now["failed"] == failed == inference.fail.count
        assert (now["rows"], now["executions"]) == (stats.inference_count, stats.execution_count)
        assert now["request_us"] == inference.success.ns // 1000
        assert now["queue_us"] == inference.queue.ns // 1000
        assert now["infer_us"] == inference.compute_infer.ns // 1000
        # Within the statistics.
        batches = stats.batch_stats
        assert sum(batch.batch_size * batch.compute_infer.count for batch in batches) == stats.inference_count
        for phase in ("compute_input", "compute_infer", "compute_output"):
            assert sum(getattr(batch, phase).count for batch in batches) == stats.execution_count
        assert inference.cache_hit.count == inference.cache_miss.count == 0
        assert stats.last_inference <= time.time() * 1000
