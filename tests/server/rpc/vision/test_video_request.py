"""Requests of videos are read as protobuf reads them, but for the bytes of frames, and within limits."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_server.errors import InvalidInput
from resonnx_server.inference.pictures import RawPicture
from resonnx_server.rpc.vision.video_request import MOST_IMAGES, read_video_request

from ....conftest import examples

_RAW = st.builds(pb.Image.Raw, rgb=st.binary(max_size=9), width=st.integers(0, 3), height=st.integers(0, 3))
_IMAGES = st.one_of(
    st.builds(pb.Image, encoded=st.binary(max_size=300)), st.builds(pb.Image, raw=_RAW), st.just(pb.Image())
)


@examples(100)
@given(st.lists(_IMAGES, max_size=5), st.lists(st.floats(allow_nan=False), max_size=5), st.text(max_size=9))
def test_requests_are_read_as_protobuf_reads_them(images: list[pb.Image], times: list[float], name: str) -> None:
    sent = pb.ClassifyVideoRequest(model=name, top_k=3, frames=pb.VideoFrames(images=images, times_s=times))
    # Of messages that follow each other, protobuf joins the lists and takes the last of other fields.
    read = read_video_request(sent.SerializeToString() + pb.ClassifyVideoRequest(id="b").SerializeToString())
    assert read.message == pb.ClassifyVideoRequest(model=name, top_k=3, id="b")
    assert read.video.times_s == times
    assert read.video.clip is None
    expected = [
        image.encoded
        if image.WhichOneof("content") == "encoded"
        else RawPicture(image.raw.rgb, image.raw.width, image.raw.height, "")
        if image.WhichOneof("content") == "raw"
        else None
        for image in images
    ]
    assert read.video.images == expected


def test_a_file_is_apart_from_the_message() -> None:
    sent = pb.ClassifyVideoRequest(model="m", clip=b"x" * 100_000).SerializeToString()
    read = read_video_request(sent)
    assert (read.video.clip, read.message, read.size) == (b"x" * 100_000, pb.ClassifyVideoRequest(model="m"), len(sent))


def _written(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"frames": pb.VideoFrames(images=[pb.Image()] * (MOST_IMAGES + 1))}, "more than 4500 frames"),
        ({"frames": pb.VideoFrames(times_s=[0.0] * (MOST_IMAGES + 1))}, "more than 4500 times"),
        ({"model": "m" * (1 << 21)}, "bytes beside contents"),
    ],
    ids=["frames", "times", "text"],
)
def test_what_is_over_a_limit_is_refused(fields: dict[str, Any], told: str) -> None:
    message = pb.ClassifyVideoRequest(**fields).SerializeToString()
    with pytest.raises(InvalidInput, match=told):
        read_video_request(message)


def test_frames_and_a_file_are_one_too_many() -> None:
    both = _written(3, _written(1, b"")) + _written(4, b"GIF")
    with pytest.raises(InvalidInput, match="both frames and clip"):
        read_video_request(both)


@pytest.mark.parametrize(
    "message",
    [
        b"\x1a\x05\x0a",
        _written(3, b"\x0a\x07x"),
        _written(3, _written(2, b"1234567")),
        _written(3, b"\x10\x01"),
        b"\x0f",
    ],
)
def test_what_breaks_off_does_not_parse(message: bytes) -> None:
    with pytest.raises(DecodeError):
        read_video_request(message)
