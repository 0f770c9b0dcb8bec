"""Ids and names are bounded before anything is kept or returned."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.v1 import vision_pb2

from ...conftest import RunningServer

_INFERENCE = "/inference.GRPCInferenceService"
CASES = [
    ("/resonnx.v1.Vision/Classify", vision_pb2.ClassifyRequest, "id"),
    ("/resonnx.v1.Vision/Classify", vision_pb2.ClassifyRequest, "model"),
    ("/resonnx.v1.Vision/Caption", vision_pb2.CaptionRequest, "id"),
    ("/resonnx.v1.Vision/GetModel", vision_pb2.GetModelRequest, "model"),
    (f"{_INFERENCE}/ModelInfer", oip.ModelInferRequest, "id"),
    (f"{_INFERENCE}/ModelInfer", oip.ModelInferRequest, "model_name"),
    (f"{_INFERENCE}/ModelReady", oip.ModelReadyRequest, "name"),
    ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest, "service"),
]


@pytest.fixture
def channel(demo_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


def _error(channel: grpc.Channel, path: str, message: Message) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(message.SerializeToString(), timeout=30)
    return refused.value


@pytest.mark.parametrize(("path", "kind", "field"), CASES)
def test_a_long_name_is_refused_with_its_size_and_limit(
    channel: grpc.Channel, path: str, kind: type[Message], field: str
) -> None:
    for value, size in (("x" * 257, 257), ("é" * 129, 258), ("x" * 60_000, 60_000)):
        error = _error(channel, path, kind(**{field: value}))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, field
        assert error.details() == f"{field}: {size} bytes, more than 256. Send a shorter one"
    # Whatever else is wrong with the request.
    call = channel.unary_unary(path).future(kind(**{field: "é" * 128}).SerializeToString(), timeout=30)
    assert call.exception() is None or "more than 256" not in call.details()


def test_a_watch_of_a_long_name_ends(channel: grpc.Channel) -> None:
    message = health_pb2.HealthCheckRequest(service="x" * 257).SerializeToString()
    with pytest.raises(grpc.RpcError, match="257 bytes, more than 256"):
        next(channel.unary_stream("/grpc.health.v1.Health/Watch")(message, timeout=30))
