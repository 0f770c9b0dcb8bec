"""Requests of the task API, with the picture file apart from the message.

Protobuf keeps a message's bytes until the last reference to it is gone, and copies a file each time that it is read.
"""

from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

from google.protobuf.message import Message
from resonnx_proto.v1 import vision_pb2 as pb

from resonnx_server.rpc.messages import WHOLE_BYTES, CountedFields
from resonnx_server.runtime import wire

M = TypeVar("M", bound=Message)

_IMAGE: Final = "image"
_ENCODED: Final = pb.Image.ENCODED_FIELD_NUMBER


@dataclass(slots=True)
class PictureRequest(Generic[M]):
    """A request of the task API.

    Attributes:
        message: The request; without its picture if that is a file.
        encoded: The picture file; None if the request has none.
    """

    message: M
    encoded: bytes | None

    @classmethod
    def of(cls, message: M) -> Self:
        """Return a request of a whole message, which has the field `image`."""
        image: pb.Image = getattr(message, _IMAGE)
        encoded = image.encoded if image.WhichOneof("content") == "encoded" else None
        return cls(message, encoded)


def read_picture_request(kind: type[M], message: bytes) -> PictureRequest[M]:
    """Read a serialized request of the task API.

    Raises:
        DecodeError: It does not parse.
        InvalidInput: It has too many fields, or too many bytes in small ones.
    """
    if len(message) <= WHOLE_BYTES:
        return PictureRequest.of(kind.FromString(message))
    view = memoryview(message)
    CountedFields().count(view, kind.DESCRIPTOR)
    number = kind.DESCRIPTOR.fields_by_name[_IMAGE].number
    found = [field for field in wire.fields(view) if field.number == number]
    file = _only_file(view, found)
    if file is None:
        return PictureRequest.of(kind.FromString(message))
    (image,) = found
    rest = b"".join((view[: image.start], view[image.end :]))
    return PictureRequest(kind.FromString(rest), bytes(file))


def _only_file(message: memoryview, images: list[Any]) -> memoryview | None:
    """Return the picture file if the message has one picture that is nothing else; protobuf merges repeated fields."""
    if len(images) != 1 or images[0].kind != wire.BYTES:
        return None
    content = message[images[0].content : images[0].end]
    fields = list(wire.fields(content))
    if len(fields) != 1 or fields[0].number != _ENCODED or fields[0].kind != wire.BYTES:
        return None
    return content[fields[0].content : fields[0].end]
