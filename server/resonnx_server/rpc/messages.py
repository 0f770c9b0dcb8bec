"""Stands between generated code and the server: which messages are taken, and how they become requests and bytes."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from resonnx_server.errors import MessageTooLarge, ServerError, UnreadableMessage
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.core.call import Handler, Rejected
from resonnx_server.rpc.core.server import CoreServer

# How far over the limit gRPC lets a message come, so that it is told in our words; it ends a larger one by itself.
TOLD_BYTES: Final = 16 << 20


class BoundedMessages:
    """A server for generated `add_…Servicer_to_server` functions.

    Args:
        server: Takes the handlers.
        max_message_bytes: The largest request.
        serialized: Methods, as /SERVICE/NAME, whose handlers give their answers serialized.
        rejected: Counts requests that are not taken.
    """

    def __init__(
        self, server: CoreServer, max_message_bytes: int, serialized: frozenset[str], rejected: RejectedCalls
    ) -> None:
        self._server = server
        self._rejected = rejected
        self._limit = max_message_bytes
        self._serialized = serialized

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """See CoreServer."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """See CoreServer."""
        bounded = {}
        for name, handler in handlers.items():
            changed: dict[str, Any] = {"request_deserializer": self._bounded(handler.request_deserializer)}
            if f"/{service}/{name}" in self._serialized:
                changed["response_serializer"] = bytes
            bounded[name] = handler._replace(**changed)
        self._server.add_registered_method_handlers(service, bounded)

    def _bounded(self, deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        limit = self._limit

        def deserialize_bounded(message: bytes) -> Any:
            if len(message) > limit:
                raise self._refusal(MessageTooLarge("the request", len(message), limit))
            try:
                return deserialize(message)
            except Exception:
                # Whatever generated code raises; with it its frames would live, and the message in them.
                error = UnreadableMessage("the request message does not parse")
            raise self._refusal(error)

        return deserialize_bounded

    def _refusal(self, error: ServerError) -> Rejected:
        self._rejected.count(error)
        return rejection(error)
