"""Stands between generated code and the server: which messages are taken, and how they become requests and bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonnx_server.errors import InvalidInput, MessageTooLarge, ServerError, UnreadableMessage
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.core.call import Handler, Rejected
from resonnx_server.rpc.core.server import CoreServer

# How far over the limit gRPC lets a message come, so that it is told in our words; it ends a larger one by itself.
TOLD_BYTES: Final = 16 << 20
# What a call may send that sends names and numbers only: protobuf reads it in some ms, whatever it holds.
SMALL_CALL_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Large:
    """A method whose messages may be large.

    Attributes:
        read: Reads a request.
        is_serialized: Its handler gives answers serialized.
    """

    read: Callable[[bytes], Any]
    is_serialized: bool = False


class BoundedMessages:
    """A server for generated `add_…Servicer_to_server` functions.

    Args:
        server: Takes the handlers.
        max_message_bytes: The largest request.
        large: Methods, as /SERVICE/NAME, that may have such requests; others take SMALL_CALL_BYTES.
        rejected: Counts requests that are not taken.
    """

    def __init__(
        self, server: CoreServer, max_message_bytes: int, large: Mapping[str, Large], rejected: RejectedCalls
    ) -> None:
        self._server = server
        self._rejected = rejected
        self._limit = max_message_bytes
        self._large = large

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """See CoreServer."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """See CoreServer."""
        bounded = {}
        for name, handler in handlers.items():
            large = self._large.get(f"/{service}/{name}")
            read = handler.request_deserializer if large is None else large.read
            changed: dict[str, Any] = {"request_deserializer": self._bounded(read, is_large=large is not None)}
            if large is not None and large.is_serialized:
                changed["response_serializer"] = bytes
            bounded[name] = handler._replace(**changed)
        self._server.add_registered_method_handlers(service, bounded)

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
                # Whatever generated code raises; with it its frames would live, and the message in them.
                error = UnreadableMessage("the request message does not parse")
            raise self._refusal(error)

        return read_bounded

    def _refusal(self, error: ServerError) -> Rejected:
        self._rejected.count(error)
        return rejection(error)
