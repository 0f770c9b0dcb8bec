"""Reads requests from their messages. Contents of large tensor requests are cut out, and read in pieces later.

The rest (names, shapes, parameters) is bounded, and protobuf reads it.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.rpc.oip import wire

M = TypeVar("M", bound=Message)

# Messages that protobuf reads as a whole: a few ms at worst.
_WHOLE_BYTES: Final = 1 << 16
# Inputs and outputs of a large message whose fields are counted.
_COUNTED_BYTES: Final = 1 << 12
# More than the largest numbers of parameters, outputs, inputs and contents together.
_MOST_FIELDS: Final = 5000
_MOST_REST: Final = 1 << 20

_INPUTS: Final = pb.ModelInferRequest.INPUTS_FIELD_NUMBER
_OUTPUTS: Final = pb.ModelInferRequest.OUTPUTS_FIELD_NUMBER
_RAW_CONTENTS: Final = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_CONTENTS: Final = pb.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER


class InferRequest:
    """A request of the tensor protocol.

    Attributes:
        message: The request without the contents below.
        raw: Its raw_input_contents.
        typed: Typed contents that were cut out of `message`, serialized, by their input's index.
        size: Bytes of the whole.
    """

    __slots__ = ("message", "raw", "size", "typed")

    def __init__(
        self,
        message: pb.ModelInferRequest,
        raw: Sequence[bytes | memoryview],
        typed: dict[int, memoryview],
        size: int,
    ) -> None:
        self.message = message
        self.raw = raw
        self.typed = typed
        self.size = size


def read_request(message: bytes) -> InferRequest:
    """Read a serialized ModelInferRequest, in a few ms at most.

    Raises:
        DecodeError: It does not parse.
        InvalidInput: It has too many fields, or too many bytes beside tensors' contents.
    """
    if len(message) <= _WHOLE_BYTES:
        whole = pb.ModelInferRequest.FromString(message)
        return InferRequest(whole, whole.raw_input_contents, {}, len(message))
    view = memoryview(message)
    cut = _Cut()
    raw: list[memoryview] = []
    typed: dict[int, memoryview] = {}
    inputs = 0
    for field in wire.fields(view):
        cut.count_field()
        is_bytes = field.kind == wire.BYTES
        if is_bytes and field.number == _RAW_CONTENTS:
            raw.append(view[field.content : field.end])
            continue
        if is_bytes and field.number in (_INPUTS, _OUTPUTS) and field.end - field.content > _COUNTED_BYTES:
            rest, contents = cut.contents(view[field.content : field.end], field.number)
            cut.keep(wire.opening(field.number, len(rest)), rest)
            if contents is not None:
                typed[inputs] = contents
        else:
            cut.keep(view[field.start : field.end])
        inputs += is_bytes and field.number == _INPUTS
    return InferRequest(pb.ModelInferRequest.FromString(b"".join(cut.rest)), raw, typed, len(message))


def read_picture_request(kind: type[M], message: bytes) -> M:
    """Read a serialized request of the task API.

    Raises:
        DecodeError: It does not parse.
        InvalidInput: It has too many fields, or too many bytes in small ones.
    """
    if len(message) > _WHOLE_BYTES:
        _count_fields(memoryview(message), kind.DESCRIPTOR, _Cut())
    return kind.FromString(message)


def _count_fields(message: memoryview, descriptor: Any, cut: "_Cut") -> None:
    for field in wire.fields(message):
        cut.count_field()
        known = descriptor.fields_by_number.get(field.number)
        if known is None or known.message_type is None or field.kind != wire.BYTES:
            continue
        size = field.end - field.content
        if size > _COUNTED_BYTES:
            _count_fields(message[field.content : field.end], known.message_type, cut)
        else:
            # Small ones are not searched for fields, of which they may consist.
            cut.count_bytes(size)


class _Cut:
    """The bounded rest of a message without its contents."""

    def __init__(self) -> None:
        self.rest: list[bytes | memoryview] = []
        self._fields = self._bytes = 0

    def count_field(self) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise InvalidInput("request", f"more than {_MOST_FIELDS} fields beside contents")

    def count_bytes(self, size: int) -> None:
        self._bytes += size
        if self._bytes > _MOST_REST:
            raise InvalidInput("request", f"{self._bytes} bytes beside contents, more than {_MOST_REST}")

    def keep(self, *parts: bytes | memoryview) -> None:
        self.count_bytes(sum(map(len, parts)))
        self.rest += parts

    def contents(self, tensor: memoryview, number: int) -> tuple[bytes, memoryview | None]:
        """Return an input or output without its contents, and those."""
        rest: list[memoryview] = []
        contents: list[memoryview] = []
        for field in wire.fields(tensor):
            self.count_field()
            if number == _INPUTS and field.number == _CONTENTS and field.kind == wire.BYTES:
                contents.append(tensor[field.content : field.end])
            else:
                rest.append(tensor[field.start : field.end])
        if not contents:
            return b"".join(rest), None
        # More than one are merged, which is joining them.
        return b"".join(rest), contents[0] if len(contents) == 1 else memoryview(b"".join(contents))
