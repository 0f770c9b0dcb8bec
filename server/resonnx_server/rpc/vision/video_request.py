"""Requests of whole videos, with frames and files apart from the message.

Protobuf keeps a message's bytes until the last reference to it is gone, and copies a file each time that it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from resonnx_proto.v1 import vision_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.pictures import RawPicture
from resonnx_server.protocol.vision.video import MOST_IMAGES, GivenVideo
from resonnx_server.rpc.messages import CountedFields
from resonnx_server.runtime import wire

_CLIP: Final = pb.ClassifyVideoRequest.CLIP_FIELD_NUMBER
_FRAMES: Final = pb.ClassifyVideoRequest.FRAMES_FIELD_NUMBER
_IMAGES: Final = pb.VideoFrames.IMAGES_FIELD_NUMBER
_TIMES: Final = pb.VideoFrames.TIMES_S_FIELD_NUMBER
_ENCODED: Final = pb.Image.ENCODED_FIELD_NUMBER


@dataclass(slots=True)
class VideoRequest:
    """A request of a whole video.

    Attributes:
        message: The request without its video.
        video: The video.
        size: Bytes of the whole.
    """

    message: pb.ClassifyVideoRequest
    video: GivenVideo
    size: int


def read_video_request(message: bytes) -> VideoRequest:
    """Read a serialized ClassifyVideoRequest.

    Raises:
        DecodeError: It does not parse.
        InvalidInput: It has too many frames or fields, too many bytes in small ones, or both frames and a file.
    """
    view = memoryview(message)
    cut, images = CountedFields(), list[bytes | RawPicture | None]()
    times, clip, has_frames = list[float](), None, False
    for field in wire.fields(view):
        content = view[field.content : field.end]
        if field.kind == wire.BYTES and field.number == _FRAMES:
            has_frames = True
            _read_frames(content, images, times)
        elif field.kind == wire.BYTES and field.number == _CLIP:
            # Of a field that is there twice, protobuf takes the last.
            clip = bytes(content)
        else:
            cut.count_field()
            cut.keep(view[field.start : field.end])
    rest = pb.ClassifyVideoRequest.FromString(b"".join(cut.rest))
    if has_frames and clip is not None:
        raise InvalidInput("video", "both frames and clip are set")
    return VideoRequest(rest, GivenVideo(images, times, clip), len(message))


def _read_frames(frames: memoryview, images: list[bytes | RawPicture | None], times: list[float]) -> None:
    for field in wire.fields(frames):
        content = frames[field.content : field.end]
        if field.number == _IMAGES and field.kind == wire.BYTES:
            if len(images) == MOST_IMAGES:
                raise InvalidInput("frames.images", f"more than {MOST_IMAGES} frames in one message")
            images.append(_image(content))
        elif field.number == _TIMES:
            times += _times(content, field.kind)
            if len(times) > MOST_IMAGES:
                raise InvalidInput("frames.times_s", f"more than {MOST_IMAGES} times in one message")


def _image(content: memoryview) -> bytes | RawPicture | None:
    """Return a picture: a file in its only field without parsing."""
    fields = []
    for field in wire.fields(content):
        fields.append(field)
        if len(fields) > 1:
            break
    if len(fields) == 1 and fields[0].number == _ENCODED and fields[0].kind == wire.BYTES:
        return bytes(content[fields[0].content : fields[0].end])
    image = pb.Image.FromString(bytes(content))
    kind = image.WhichOneof("content")
    if kind == "encoded":
        return image.encoded
    if kind is None:
        return None
    return RawPicture(image.raw.rgb, image.raw.width, image.raw.height, "")


def _times(content: memoryview, kind: int) -> Sequence[float]:
    """Return times, packed or a single one. Raises DecodeError if they break off."""
    if kind not in (wire.BYTES, wire.FIXED64) or len(content) % 8:
        raise DecodeError("times break off")
    found: list[float] = np.frombuffer(content, "<f8").tolist()
    return found
