"""A real server's access log: a line for each request of both protocols and of HTTP, at any log level."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ....attacks.guarded import Guarded, bearer, guarded

_TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 3]}


@pytest.fixture(scope="module")
def running(start_server, tmp_path_factory: pytest.TempPathFactory, grpc_front: str | None) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with guarded(start_server, folder, grpc_front or "auto", "--access-log", "--log-level", "error") as server:
        yield server


@pytest.fixture
def stub(running: Guarded) -> Iterator[grpc_service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(running.server.grpc) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _request(model: str = "doubling", **fields: str) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model, inputs=[_TENSOR], raw_input_contents=[bytes(24)], **fields)


def _lines(running: Guarded, request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """Lines with an id, once there are so many; they are written soon after the answer."""
    end = time.monotonic() + 20
    while True:
        lines = [json.loads(line) for line in running.server.log.read_text().splitlines() if line.endswith("}")]
        found = [line for line in lines if line.get("request_id") == request_id]
        if len(found) >= count:
            assert {line["logger"] for line in lines} == {"resonnx.access"}
            return found
        assert time.monotonic() < end, lines
        time.sleep(0.01)


def test_requests_over_grpc(running: Guarded, stub) -> None:
    stub.ModelInfer(_request(id="good"), metadata=bearer("infer"), timeout=20)
    (line,) = _lines(running, "good")
    assert 0 < line["ms"] < 20_000
    expected = {"model": "doubling", "version": 1, "rows": 2, "outcome": "OK", "caller": "key:infer"}
    assert {name: line[name] for name in expected} == expected
    assert line["method"] == "/inference.GRPCInferenceService/ModelInfer"
    assert line["bytes"] > 24


def test_calls_that_reach_no_model(running: Guarded, stub) -> None:
    for request_id, model, key, reason in (
        ("unknown", "none", "infer", "MODEL_NOT_FOUND"),
        ("no-role", "doubling", "read", "ROLE_MISSING"),
        ("no-key", "doubling", "nobody", "KEY_UNKNOWN"),
    ):
        metadata = (*bearer(key), ("x-request-id", request_id))
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(_request(model), metadata=metadata, timeout=20)
        (line,) = _lines(running, request_id)
        caller = None if key == "nobody" else f"key:{key}"
        assert (line["outcome"], line.get("caller"), "model" in line) == (reason, caller, False)


def test_each_request_of_a_stream_and_no_health_check(running: Guarded, stub) -> None:
    requests = [_request(), _request("none"), _request()]
    metadata = (*bearer("infer"), ("x-request-id", "stream"))
    assert len(list(stub.ModelStreamInfer(iter(requests), metadata=metadata, timeout=20))) == 3
    with grpc.insecure_channel(running.server.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(), metadata=[("x-request-id", "health")], timeout=20)
    stub.ServerLive(pb.ServerLiveRequest(), metadata=(*bearer("read"), ("x-request-id", "last")), timeout=20)
    _lines(running, "last")
    assert sorted(line["outcome"] for line in _lines(running, "stream", 3)) == ["MODEL_NOT_FOUND", "OK", "OK"]
    assert '"health"' not in running.server.log.read_text()


def test_over_http(running: Guarded) -> None:
    body = json.dumps({"inputs": [{**_TENSOR, "data": [0] * 6}]}).encode()
    for request_id, path, content, key, outcome in (
        ("h-1", "/v2/models/doubling/infer", body, "infer", "OK"),
        ("h-2", "/v2/models/none/infer", body, "infer", "MODEL_NOT_FOUND"),
        ("h-3", "/v2/models/doubling", None, "read", "OK"),
        ("h-4", "/v2/models/doubling", None, "infer", "ROLE_MISSING"),
        ("h-5", "/livez", None, "read", None),
        ("h-6", "/v2", None, "read", "OK"),
    ):
        headers = dict(bearer(key)) | {"X-Request-Id": request_id}
        request = urllib.request.Request(f"http://{running.server.http}{path}", content, headers)
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            error.close()
        if outcome is not None:
            (line,) = _lines(running, request_id)
            assert (line["outcome"], line["caller"]) == (outcome, f"key:{key}")
            assert line["method"].startswith(("GET /v2", "POST /v2/models/{name}/infer"))
            assert ("rows" in line) is (request_id == "h-1")
    assert '"h-5"' not in running.server.log.read_text()
