"""Parses requests within limits; a request over a limit, or that does not parse, ends its call with a status.

The contents of large tensor requests are cut out, and parsed in pieces later (oip/inputs.py). The size of the rest
(names, shapes, parameters) is limited, and protobuf parses it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput, MessageTooLarge, ServerError, UnreadableMessage
from resonnx_server.memory.budget import Charge
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.protocol.oip.request import InferRequest
from resonnx_server.protocol.unpacking import Unpacker
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.fronts.call import Handler
from resonnx_server.rpc.fronts.front import Front
from resonnx_server.runtime import wire

# gRPC accepts messages so far above the limit, so that the error can name the setting; it rejects larger ones itself.
HEADROOM_BYTES: Final = 16 << 20
# Limit of requests without pictures or tensors. gRPC has one limit for all methods.
SMALL_CALL_BYTES: Final = 1 << 16
# Longest id or name, in bytes: they are kept while a request runs, and returned with its answer.
_LONGEST_NAME: Final = 256
# Messages that protobuf parses as a whole: a few ms at most.
WHOLE_BYTES: Final = 1 << 16
# The fields of larger inputs and outputs are counted.
_COUNTED_BYTES: Final = 1 << 12
# More than the largest numbers of parameters, outputs, inputs and contents together.
_MOST_FIELDS: Final = 5000
_MOST_REST: Final = 1 << 20

_INPUTS: Final = pb.ModelInferRequest.INPUTS_FIELD_NUMBER
_OUTPUTS: Final = pb.ModelInferRequest.OUTPUTS_FIELD_NUMBER
_RAW_CONTENTS: Final = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_CONTENTS: Final = pb.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER


@dataclass(frozen=True)
class Large:
    """A method with large requests.

    Attributes:
        read: Parses a request.
        is_serialized: The handler returns serialized answers.
    """

    read: Callable[[bytes], Any]
    is_serialized: bool = False


class BoundedMessages:
    """Takes handlers from generated `add_…Servicer_to_server` functions for a front.

    Args:
        front: The front.
        max_message_bytes: The largest request.
        large: Methods, as /SERVICE/NAME, that may have such requests; others take SMALL_CALL_BYTES.
        rejected: Counts rejected requests.
        unpacker: Unpacks messages.
    """

    def __init__(
        self,
        front: Front,
        max_message_bytes: int,
        large: Mapping[str, Large],
        rejected: RejectedCalls,
        unpacker: Unpacker,
    ) -> None:
        self._front = front
        self._rejected = rejected
        self._limit = max_message_bytes
        self._large = large
        self._unpacker = unpacker

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code registers the same methods one by one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service with bounded requests."""
        bounded = {}
        for name, handler in handlers.items():
            large = self._large.get(f"/{service}/{name}")
            read = handler.request_deserializer if large is None else large.read
            most = self._limit if large is not None else min(self._limit, SMALL_CALL_BYTES)
            reader = _Reader(read, self._limit, most, self._rejected, self._unpacker)
            changed: dict[str, Any] = {"request_deserializer": reader}
            if large is not None and large.is_serialized:
                changed["response_serializer"] = bytes
            bounded[name] = handler._replace(**changed)
        self._front.add_registered_method_handlers(service, bounded)


class _Reader:
    """Reads the requests of a method within limits. What it raises ends the call with a status, and is counted."""

    def __init__(
        self, read: Callable[[bytes], Any], limit: int, most: int, rejected: RejectedCalls, unpacker: Unpacker
    ):
        self._read = read
        self._limit = limit
        self._most = most
        self._rejected = rejected
        self._unpacker = unpacker

    def __call__(self, message: bytes) -> Any:
        """Return a request. Raises Rejected."""
        try:
            if len(message) > self._limit:
                raise MessageTooLarge("the request", len(message), self._limit)
            if len(message) > self._most:
                raise InvalidInput("request", f"{len(message)} bytes, more than {self._most} for this call")
            request = self._read(message)
            _check_names(request if isinstance(request, Message) else request.message)
            return request
        except ServerError as known:
            error = known.with_traceback(None)
        except Exception:
            # Raised here, the error would hold this one's frames, and the message in them.
            error = UnreadableMessage("the request message does not parse")
        self._rejected.count(error)
        raise rejection(error)

    async def unpack(self, message: bytes, caller: str) -> tuple[bytes, Charge]:
        """Return a message that is packed as it was before, and the charge for it. Raises Rejected."""
        try:
            return await self._unpacker.unpack(message, caller, self._most)
        except ServerError as known:
            error = known.with_traceback(None)
        self._rejected.count(error)
        raise rejection(error)


def _check_names(message: Any) -> None:
    """Raise InvalidInput if an id or a name is too long to be kept and returned."""
    for field in _names(message.DESCRIPTOR):
        value: str = getattr(message, field)
        # A character has 4 bytes at most.
        if len(value) > _LONGEST_NAME // 4 and (size := len(value.encode())) > _LONGEST_NAME:
            raise InvalidInput(field, f"{size} bytes, more than {_LONGEST_NAME}. Send a shorter one")


@cache
def _names(message: Descriptor) -> tuple[str, ...]:
    """Return the string fields of a message that are no lists."""
    return tuple(
        field.name for field in message.fields if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
    )


def read_request(message: bytes) -> InferRequest:
    """Read a serialized ModelInferRequest, in a few ms at most.

    Raises:
        DecodeError: It does not parse.
        InvalidInput: It has too many fields, or too many bytes beside tensors' contents.
    """
    if len(message) <= WHOLE_BYTES:
        whole = pb.ModelInferRequest.FromString(message)
        return InferRequest(whole, whole.raw_input_contents, {}, len(message))
    view = memoryview(message)
    cut = CountedFields()
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


class CountedFields:
    """The bounded rest of a message without its contents."""

    def __init__(self) -> None:
        self.rest: list[bytes | memoryview] = []
        self._fields = self._bytes = 0

    def count(self, message: memoryview, descriptor: Any) -> None:
        """Count the fields of a message at any depth. Raises InvalidInput if there are too many, or too long ones."""
        for field in wire.fields(message):
            self.count_field()
            known = descriptor.fields_by_number.get(field.number)
            if field.kind != wire.BYTES:
                continue
            size = field.end - field.content
            if known is None or known.message_type is None:
                if known is None or known.type != FieldDescriptor.TYPE_BYTES:
                    # Text: protobuf would check and copy it while it holds the GIL.
                    self.count_bytes(size)
            elif size > _COUNTED_BYTES:
                self.count(message[field.content : field.end], known.message_type)
            else:
                # Not searched for fields: it is bounded by its size.
                self.count_bytes(size)

    def count_field(self) -> None:
        """Count a field. Raises InvalidInput if there are too many."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise InvalidInput("request", f"more than {_MOST_FIELDS} fields beside contents")

    def count_bytes(self, size: int) -> None:
        """Count bytes. Raises InvalidInput if there are too many."""
        self._bytes += size
        if self._bytes > _MOST_REST:
            raise InvalidInput("request", f"{self._bytes} bytes beside contents, more than {_MOST_REST}")

    def keep(self, *parts: bytes | memoryview) -> None:
        """Keep parts of the message, and count their bytes."""
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
        # Merging several is joining their bytes.
        return b"".join(rest), contents[0] if len(contents) == 1 else memoryview(b"".join(contents))
