"""docs/compatibility.md is what clients were seen to use, and they use all that is served."""

import gzip
import json
from pathlib import Path

import pytest
from hpack import Encoder
from resonnx_proto.inference import grpc_service_pb2 as pb

from . import features, http1, http2, matrix
from .tap import Recording

_PAGE = Path(__file__).parents[2] / "docs/compatibility.md"


def test_the_page_is_up_to_date() -> None:
    assert _PAGE.read_text() == matrix.page(), "run `make clients`"


def test_all_that_is_served_is_used_by_a_client() -> None:
    assert matrix.served() - set().union(*matrix.covered().values()) == set()
    assert matrix.covered().keys() == matrix.CLIENTS.keys()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(("status", "counts"), [("0", True), ("3", False)])
def test_calls_are_read_from_http2(status: str, counts: bool) -> None:
    request = pb.ModelInferRequest(model_name="m", inputs=[{"name": "x", "datatype": "FP32"}])
    request.parameters["priority"].int64_param = 1
    packed = gzip.compress(request.SerializeToString())
    message = b"\x01" + len(packed).to_bytes(4, "big") + packed
    path = "/inference.GRPCInferenceService/ModelInfer"
    head = Encoder().encode([(":path", path), ("grpc-encoding", "gzip"), ("grpc-timeout", "1S")])
    # Headers in two frames, padded data in two.
    sent = http2.PREFACE + _frame(4, 0, 0, b"") + _frame(1, 0, 1, head[:5]) + _frame(9, 4, 1, head[5:])
    sent += _frame(0, 8, 1, b"\x02" + message[:7] + b"\0\0") + _frame(0, 1, 1, message[7:])
    answers = Encoder()
    received = _frame(1, 4, 1, answers.encode([(":status", "200")]))
    received += _frame(1, 5, 1, answers.encode([("grpc-status", status)]))
    (call,) = http2.calls(Recording(bytearray(sent), bytearray(received)))
    uses = {use for _, use in features.of_call(call)}
    wanted = {"", "model_name", "inputs", "inputs.name", "inputs.datatype=FP32", "parameters[priority]"}
    assert uses == (wanted | {"grpc-encoding: gzip", "grpc-timeout:"} if counts else set())


@pytest.mark.parametrize(("status", "counts"), [("200 OK", True), ("404 Not Found", False)])
def test_requests_are_read_from_http1(status: str, counts: bool) -> None:
    body = json.dumps({"inputs": [{"name": "x", "parameters": {"binary_data_size": 3}}]}).encode()
    after = body + b"abc"
    first = f"POST /v2/models/m/infer?a=1 HTTP/1.1\r\ninference-header-content-length: {len(body)}\r\n".encode()
    first += b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + after[:5] + b"\r\n"
    first += f"{len(after) - 5:x}".encode() + b"\r\n" + after[5:] + b"\r\n0\r\n\r\n"
    sent = first + b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n"
    received = f"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    received += b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    asked = list(http1.requests(Recording(bytearray(sent), bytearray(received))))
    uses = [list(features.of_request(request, ["GET /v2", "POST /v2/models/{name}/infer"])) for request in asked]
    path = "POST /v2/models/{name}/infer"
    inferred = [(path, ""), (path, "?a"), (path, "inputs.name"), (path, "inputs.parameters[binary_data_size]")]
    assert uses == [inferred if counts else [], [("GET /v2", "")]]
