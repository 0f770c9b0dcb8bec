"""Parses requests within limits; a request over a limit, or that does not parse, ends its call with a status.

The contents of large tensor requests are cut out, and parsed in pieces later (oip/inputs.py). The size of the rest
(names, shapes, parameters) is limited, and protobuf parses it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput, MessageTooLarge, ServerError, UnreadableMessage
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.fronts.call import Handler
from resonnx_server.rpc.fronts.front import Front
from resonnx_server.runtime import wire

M = TypeVar("M", bound=Message)

# gRPC accepts messages so far above the limit, so that the error can name the setting; it rejects larger ones itself.
HEADROOM_BYTES: Final = 16 << 20
# Limit of requests without pictures or tensors: protobuf parses any of them in a few ms.
SMALL_CALL_BYTES: Final = 1 << 20
# Messages that protobuf parses as a whole: a few ms at most.
_WHOLE_BYTES: Final = 1 << 16
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
    """

    def __init__(
        self, front: Front, max_message_bytes: int, large: Mapping[str, Large], rejected: RejectedCalls
    ) -> None:
        self._front = front
        self._rejected = rejected
        self._limit = max_message_bytes
        self._large = large

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code registers the same methods one by one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service with bounded requests."""
        bounded = {}
        for name, handler in handlers.items():
            large = self._large.get(f"/{service}/{name}")
            read = handler.request_deserializer if large is None else large.read
            changed: dict[str, Any] = {"request_deserializer": self._bounded(read, is_large=large is not None)}
            if large is not None and large.is_serialized:
                changed["response_serializer"] = bytes
            bounded[name] = handler._replace(**changed)
        self._front.add_registered_method_handlers(service, bounded)

    def _bounded(self, read: Callable[[bytes], Any], *, is_large: bool) -> Callable[[bytes], Any]:
        limit = self._limit
        most = limit if is_large else min(limit, SMALL_CALL_BYTES)

        def read_bounded(message: bytes) -> Any:
            try:
                if len(message) > limit:
                    raise MessageTooLarge("the request", len(message), limit)
                if len(message) > most:
                    raise InvalidInput("request", f"{len(message)} bytes, more than {most} for this call")
                return read(message)
            except ServerError as known:
                error = known.with_traceback(None)
            except Exception:
                # Raised here, the error would hold this one's frames, and the message in them.
                error = UnreadableMessage("the request message does not parse")
            self._rejected.count(error)
            raise rejection(error)

        return read_bounded


@dataclass(slots=True)
class InferRequest:
    """A request of the tensor protocol.

    Attributes:
        message: The request without the contents below.
        raw: The raw_input_contents.
        typed: Typed contents that were cut out of `message`, serialized, by their input's index.
        size: Bytes of the whole.
    """

    message: pb.ModelInferRequest
    raw: Sequence[bytes | memoryview]
    typed: dict[int, memoryview]
    size: int


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
            # Not searched for fields: it is bounded by its size.
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
        # Merging several is joining their bytes.
        return b"".join(rest), contents[0] if len(contents) == 1 else memoryview(b"".join(contents))
