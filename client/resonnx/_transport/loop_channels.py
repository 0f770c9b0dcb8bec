"""Asyncio channels that are created on first use, and again after their event loop was closed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from resonnx._errors import Cancelled, ClientClosed
from resonnx._rpcs import Rpc
from resonnx._transport.access import Access
from resonnx._transport.channel import options
from resonnx._transport.links import Link


class LoopChannels:
    """Channels to one server, or several, bound to the event loop of their first use.

    `unary`, `stream` and `pipeline` return a method, which takes a request (or an iterator of requests) and a timeout.
    They raise ClientClosed after `close`, and RuntimeError if the channels belong to another loop that is not closed.

    Args:
        targets: The servers' addresses for gRPC.
        access: Key and TLS.
    """

    def __init__(self, targets: tuple[str, ...], access: Access) -> None:
        self._targets = targets
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[Link, grpc.aio.Channel] = {}
        self._methods: dict[tuple[Link, Rpc[Any, Any]], Any] = {}
        self._closed = False

    def unary(self, link: Link, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of one request and one response."""
        return self._method("unary_unary", link, rpc)

    def stream(self, link: Link, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of one request and a stream of responses."""
        return self._method("unary_stream", link, rpc)

    def pipeline(self, link: Link, rpc: Rpc[Any, Any]) -> Any:
        """Return a method of a stream of requests and a stream of responses."""
        return self._method("stream_stream", link, rpc)

    def _method(self, kind: str, link: Link, rpc: Rpc[Any, Any]) -> Any:
        self._bind()
        method = self._methods.get((link, rpc))
        if method is None:
            channel = self._channels.get(link)
            if channel is None:
                target, alone = self._targets[link.server], len(self._targets) == 1
                first, health_checks = link.connection == 0, self._access.health_checks
                given = options(target, alone=alone, first=first, health_checks=health_checks)
                channel = self._access.aio_channel(target, given)
                self._channels[link] = channel
            make: Callable[..., Any] = getattr(channel, kind)
            made = make(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            self._methods[link, rpc] = method = partial(made, metadata=self._access.metadata)
        return method

    def _bind(self) -> None:
        """Forget the channels of a loop that was closed: gRPC binds a channel to the loop that runs then."""
        if self._closed:
            raise ClientClosed
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("this AsyncClient is used by another event loop: create one for each")
            self._loop = loop
            self._channels = {}
            self._methods = {}

    def check_cancelled(self) -> None:
        """Raise Cancelled if the channels were closed, which gRPC reports as if the task had been cancelled."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            raise Cancelled("the client was closed during the call") from None

    async def close(self) -> None:
        """Close the channels; later calls raise ClientClosed."""
        self._closed = True
        channels, self._channels = self._channels, {}
        if self._loop is asyncio.get_running_loop():
            for channel in channels.values():
                await channel.close()
