"""Packed requests are served as others are, and bounded by what they unpack to."""

import gzip
import io
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as tritonclient
from PIL import Image
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer

CLASSIFY = "/resonnx.v1.Vision/Classify"
LIST = "/resonnx.v1.Vision/ListModels"
LIMIT = 64 << 20
OPTIONS = [("grpc.max_send_message_length", -1)]
GZIP, DEFLATE = grpc.Compression.Gzip, grpc.Compression.Deflate


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(buffer, "BMP")
    return buffer.getvalue()


PICTURE = _picture()


@pytest.fixture
def channel(demo_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc, OPTIONS) as channel:
        yield channel


def _refusal(channel: grpc.Channel, path: str, message: bytes, compression: grpc.Compression | None) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(message, timeout=30, compression=compression)
    return refused.value


def test_pictures_may_be_packed_on_calls_and_streams(channel: grpc.Channel) -> None:
    request = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=PICTURE), id="x" * 200)
    vision = vision_pb2_grpc.VisionStub(channel)
    plain = vision.Classify(request, timeout=30)
    packed = vision.Classify(request, timeout=30, compression=GZIP)
    assert packed.predictions == plain.predictions
    answers = list(vision.ClassifyStream(iter([request] * 3), timeout=30, compression=GZIP))
    assert [answer.response.predictions for answer in answers] == [plain.predictions] * 3


def test_tritonclients_gzip_works(demo_server: RunningServer) -> None:
    given = tritonclient.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([PICTURE], object))
    with tritonclient.InferenceServerClient(demo_server.grpc) as client:
        plain, packed = (
            client.infer("digits", [given], compression_algorithm=name).as_numpy("probabilities")
            for name in (None, "gzip")
        )
    assert plain.tolist() == packed.tolist()


def test_deflate_is_not_accepted(channel: grpc.Channel) -> None:
    error = _refusal(channel, LIST, b"\x0a\x00" * 1000, DEFLATE)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (gzip.compress(b"x" * 100)[:-9], "breaks off"),
        (gzip.compress(b"x" * 100)[:-8] + bytes(8), "no valid gzip"),
        (b"\x1f\x8b", "breaks off"),
        (b"\x1f\x8b" + b"x" * 100, "no valid gzip"),
        (gzip.compress(b"") + b"x", "bytes after its gzip"),
    ],
)
def test_what_does_not_unpack_is_an_unreadable_message(channel: grpc.Channel, message: bytes, said: str) -> None:
    error = _refusal(channel, LIST, message, None)
    assert (error.code(), said in error.details()) == (grpc.StatusCode.INTERNAL, True), error.details()


def test_what_unpacks_to_more_than_the_limit_is_refused(channel: grpc.Channel) -> None:
    error = _refusal(channel, CLASSIFY, bytes(LIMIT + 1), GZIP)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"more than {LIMIT} bytes, the limit of this call (max_message_bytes" in error.details()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


@pytest.mark.parametrize("compression", [None, GZIP])
def test_calls_without_pictures_take_64_kilobytes(channel: grpc.Channel, compression: grpc.Compression | None) -> None:
    error = _refusal(channel, LIST, bytes((1 << 16) + 1), compression)
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "65536" in error.details()
