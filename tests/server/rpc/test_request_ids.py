"""A request that fails has the same id in the details of its error and in the log, whoever gave the id."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ...conftest import RunningServer
from .. import bare_graphs

# The model fails on it.
_BAD = np.array([[7]]).tobytes()


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("models")
    (repository / "picky/1").mkdir(parents=True)
    (repository / "picky/1/model.onnx").write_bytes(bare_graphs.picky())
    with start_server(repository, "--log-level", "debug") as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[grpc_service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _request(model: str = "picky", **fields: str) -> pb.ModelInferRequest:
    tensor = {"name": "x", "datatype": "INT64", "shape": [1, 1]}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[_BAD], **fields)


def _of_error(call: Callable[[], object]) -> str:
    """The id in the details of the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    trailers = dict(failed.value.trailing_metadata())
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
    (info,) = [detail for detail in details if detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR)]
    found = error_details_pb2.RequestInfo()
    info.Unpack(found)
    return found.request_id


def _of_lines(log: Path, request_id: str) -> set[str]:
    """Messages of the lines of the log that name a request."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    return {
        line["message"]
        for line in lines
        if line.get("request_id") == request_id or request_id in line.get("request_ids", ())
    }


@pytest.mark.parametrize(
    ("own", "header", "found"),
    [
        ("mine-1", "of-the-call", "mine-1"),
        ("", "of the;call", "of_the_call"),
        ("a\n{" + "x" * 99, "", "a__" + "x" * 61),
    ],
)
def test_an_id_that_is_given(server: RunningServer, stub, own: str, header: str, found: str) -> None:
    metadata = [("x-request-id", header)] if header else []
    assert _of_error(lambda: stub.ModelInfer(_request(id=own), metadata=metadata, timeout=20)) == found
    assert "a request ended" in _of_lines(server.log, found)
    assert _of_error(lambda: stub.ModelInfer(_request("no", id=own), metadata=metadata, timeout=20)) == found


def test_an_id_that_is_made(server: RunningServer, stub) -> None:
    first, second = (_of_error(lambda: stub.ModelInfer(_request(), timeout=20)) for _ in range(2))
    assert len(first) == len(second) == 16
    assert first != second
    assert all("a request ended" in _of_lines(server.log, each) for each in (first, second))
    # A line of this kind is logged once a second.
    end = time.monotonic() + 20
    while "an input failed" not in _of_lines(server.log, _of_error(lambda: stub.ModelInfer(_request(), timeout=20))):
        assert time.monotonic() < end


def test_requests_of_a_stream_have_ids_of_their_own(stub) -> None:
    requests = [_request(id="one"), _request(), _request("no", id="three"), _request()]
    answers = stub.ModelStreamInfer(iter(requests), metadata=[("x-request-id", "stream")], timeout=20)
    found = [answer.infer_response.parameters["request_id"].string_param for answer in answers]
    assert found == ["one", "stream", "three", "stream"]


@pytest.mark.parametrize(("path", "status"), [("picky/infer", 500), ("none/infer", 404), ("none", 404)])
def test_over_http(server: RunningServer, path: str, status: int) -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [7]}]}).encode()
    for header, expected in (("x/1", "x/1"), ("é\u00ff", "__")):
        request = urllib.request.Request(
            f"http://{server.http}/v2/models/{path}",
            body if path.endswith("infer") else None,
            {"X-Request-Id": header},
        )
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(request, timeout=20)
        told = json.load(failed.value)
        assert (failed.value.code, told["request_id"]) == (status, expected), told
