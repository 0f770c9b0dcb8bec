"""The trace that a caller names is that of its requests, on each way in, and of no others on the same connection."""

import http.client
import json
from typing import Any

import grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .conftest import Extended

SPAN = "00f067aa0ba902b7"
BODY = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'


def _header(number: int) -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{SPAN}-01"}


def _request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="doubling", raw_input_contents=[bytes(12)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    return request


def _traces(extended: Extended, since: int) -> list[str | None]:
    """Return the traces of the requests that have ended, in order."""
    lines: list[dict[str, Any]] = []
    for line in extended.server.log.read_text()[since:].splitlines():
        if line.startswith("{"):
            lines.append(json.loads(line))
    return [line.get("trace_id") for line in lines if line["message"] == "a request ended"]


def test_requests_have_their_callers_trace(extended: Extended) -> None:
    since = len(extended.server.log.read_text())
    extended.client.update_log_settings({"log_verbose_level": 1})
    with grpc.insecure_channel(extended.server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(_request(), timeout=20, metadata=tuple(_header(1).items()))
        stub.ModelInfer(_request(), timeout=20)
        for answer in stub.ModelStreamInfer(iter([_request()]), timeout=20, metadata=tuple(_header(2).items())):
            assert not answer.error_message
    host, port = extended.server.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    for headers in (_header(3), {}, {"traceparent": "00-none"}):
        connection.request("POST", "/v2/models/doubling/infer", BODY, headers)
        answer = connection.getresponse()
        assert (answer.status, len(answer.read()) > 0) == (200, True)
    connection.close()
    extended.client.update_log_settings({"log_verbose_level": 0})
    expected = [f"{number:032x}" if number else None for number in (1, 0, 2, 3, 0, 0)]
    assert _traces(extended, since) == expected
