"""An asyncio channel that is created on first use, and again after its event loop was closed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from resonnx._errors import Cancelled, ClientClosed
from resonnx._rpcs import Rpc
from resonnx._transport.access import Access
from resonnx._transport.channel import OPTIONS


class LoopChannel:
    """A channel to a server, bound to the event loop of its first use.

    `unary`, `stream` and `pipeline` return a method, which takes a request (or an iterator of requests) and a timeout.
    They raise ClientClosed after `close`, and RuntimeError if the channel belongs to another loop that is not closed.

    Args:
        server: HOST:PORT or another address that gRPC resolves.
        access: Key and TLS.
    """

    def __init__(self, server: str, access: Access) -> None:
        self._server = server
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[Rpc[Any, Any], Any] = {}
        self._closed = False

    def unary(self, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of one request and one response."""
        return self._method(rpc, self._current().unary_unary)

    def stream(self, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of one request and a stream of responses."""
        return self._method(rpc, self._current().unary_stream)

    def pipeline(self, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of a stream of requests and a stream of responses."""
        return self._method(rpc, self._current().stream_stream)

    def _method(self, rpc: Rpc[Any, Any], kind: Callable[..., Any]) -> Any:
        method = self._methods.get(rpc)
        if method is None:
            made = kind(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            self._methods[rpc] = method = partial(made, metadata=self._access.metadata)
        return method

    def _current(self) -> grpc.aio.Channel:
        """Return the channel of the running loop."""
        if self._closed:
            raise ClientClosed
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._channel is None:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("this AsyncClient is used by another event loop: create one for each")
            self._loop = loop
            # gRPC binds a channel to the running loop.
            self._channel = self._access.aio_channel(self._server, OPTIONS)
            self._methods = {}
        return self._channel

    def check_cancelled(self) -> None:
        """Raise Cancelled if the channel was closed, which gRPC reports as if the task had been cancelled."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            raise Cancelled("the client was closed during the call") from None

    async def close(self) -> None:
        """Close the channel; later calls raise ClientClosed."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()
