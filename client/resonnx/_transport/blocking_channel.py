"""A blocking channel to a server."""

from collections.abc import Callable, Iterator
from typing import Any

from resonnx._errors import ClientClosed
from resonnx._rpcs import Q, R, Rpc
from resonnx._transport.access import Access
from resonnx._transport.channel import OPTIONS


class BlockingChannel:
    """A channel that connects on its first call; threads may share it. Its calls raise ClientClosed after `close`.

    Args:
        server: HOST:PORT or another address that gRPC resolves.
        access: Key and TLS.
    """

    def __init__(self, server: str, access: Access) -> None:
        self._metadata = access.metadata
        self._channel = access.channel(server, OPTIONS)
        self._methods: dict[Rpc[Any, Any], Any] = {}
        self._closed = False

    def unary(self, rpc: Rpc[Q, R], request: Q, timeout_s: float | None) -> Any:
        """Make a call of one request and one response, and return the response."""
        return self._start(self._channel.unary_unary, rpc, request, timeout_s)

    def stream(self, rpc: Rpc[Q, R], request: Q, timeout_s: float | None) -> Any:
        """Start a call of one request and a stream of responses, and return these."""
        return self._start(self._channel.unary_stream, rpc, request, timeout_s)

    def pipeline(self, rpc: Rpc[Q, R], requests: Iterator[Q], timeout_s: float | None) -> Any:
        """Start a call of a stream of requests and a stream of responses, and return the latter."""
        return self._start(self._channel.stream_stream, rpc, requests, timeout_s)

    def close(self) -> None:
        """End the calls under way and disconnect."""
        self._closed = True
        self._channel.close()

    def _start(self, kind: Callable[..., Any], rpc: Rpc[Any, Any], request: Any, timeout_s: float | None) -> Any:
        try:
            method = self._methods.get(rpc)
            if method is None:
                method = kind(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
                self._methods[rpc] = method
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except ValueError:
            # gRPC's error for a closed channel.
            if self._closed:
                raise ClientClosed from None
            raise
