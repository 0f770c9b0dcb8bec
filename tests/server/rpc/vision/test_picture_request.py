"""Requests with pictures: read within limits, and as protobuf reads them."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1 import vision_pb2
from resonnx_server.errors import InvalidInput
from resonnx_server.rpc.vision.picture_request import PictureRequest, read_picture_request
from resonnx_server.runtime import wire

from ....conftest import examples


def test_pictures_requests_have_few_fields_at_any_depth() -> None:
    nested = wire.opening(3, 200_000) + b"\x78\x01" * 100_000
    for message in (b"\x78\x01" * 100_000, nested):
        with pytest.raises(InvalidInput, match="more than 5000 fields"):
            read_picture_request(vision_pb2.ClassifyRequest, message)
    small = (wire.opening(3, 4096) + b"\x78\x01" * 2048) * 400
    with pytest.raises(InvalidInput, match="bytes beside contents, more than 1048576"):
        read_picture_request(vision_pb2.ClassifyRequest, small)
    request = vision_pb2.CaptionRequest(image={"encoded": bytes(100_000)}, prefix=["a"] * 4000)
    read = read_picture_request(vision_pb2.CaptionRequest, request.SerializeToString())
    assert read.encoded == bytes(100_000)
    request.ClearField("image")
    assert read.message == request


def test_a_large_file_is_there_once() -> None:
    file = bytes(range(256)) * 40_000
    read = read_picture_request(
        vision_pb2.ClassifyRequest, vision_pb2.ClassifyRequest(image={"encoded": file}, id="a").SerializeToString()
    )
    assert read.encoded == file
    assert read.message.ByteSize() < 10


_image = st.fixed_dictionaries(
    {}, optional={"encoded": st.just(b"e" * 70_000) | st.just(b"f"), "raw": st.just({"rgb": b"r" * 70_000, "width": 1})}
).map(lambda image: {"encoded": image["encoded"]} if "encoded" in image else image)

_part = st.fixed_dictionaries({}, optional={"image": _image, "id": st.sampled_from("ab")})


@examples(60)
@given(
    st.lists(st.fixed_dictionaries({}, optional={"image": _image, "id": st.sampled_from("ab")}), min_size=1, max_size=4)
)
def test_repeated_fields_are_merged_as_protobuf_does(parts: list[dict[str, object]]) -> None:
    message = b"".join(vision_pb2.ClassifyRequest(**part).SerializeToString() for part in parts)  # type: ignore[arg-type]
    read = read_picture_request(vision_pb2.ClassifyRequest, message)
    whole = PictureRequest.of(vision_pb2.ClassifyRequest.FromString(message))
    assert read.encoded == whole.encoded
    assert read.message.id == whole.message.id
    assert read.message.image.raw == whole.message.image.raw


def test_what_does_not_parse_is_refused() -> None:
    message = vision_pb2.ClassifyRequest(image={"encoded": bytes(100_000)}).SerializeToString()
    with pytest.raises(DecodeError):
        read_picture_request(vision_pb2.ClassifyRequest, message[:-1])
