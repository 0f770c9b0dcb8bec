"""Reads request messages within limits, and turns what is wrong with them into a status."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonnx_server.errors import InvalidInput, MessageTooLarge, ServerError, UnreadableMessage
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.fronts.call import Handler, Rejected
from resonnx_server.rpc.fronts.front import Front

# How far above the limit gRPC accepts a message, so that the error names the setting; it rejects larger ones itself.
TOLD_BYTES: Final = 16 << 20
# Limit of requests without pictures or tensors: protobuf reads them in some ms, whatever they hold.
SMALL_CALL_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Large:
    """A method whose messages may be large.

    Attributes:
        read: Reads a request.
        is_serialized: Its handler returns serialized answers.
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
                # Chained to it, the error would keep its frames, and the message in them.
                error = UnreadableMessage("the request message does not parse")
            raise self._refusal(error)

        return read_bounded

    def _refusal(self, error: ServerError) -> Rejected:
        self._rejected.count(error)
        return rejection(error)
