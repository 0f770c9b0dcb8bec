"""An asyncio channel that is created on first use, and again after its event loop was closed."""

import asyncio
from typing import Any

import grpc

from resonnx._errors import Cancelled, ClientClosed
from resonnx._transport.access import Access
from resonnx._transport.channel import OPTIONS, vision_stub


class LoopChannel:
    """A channel to a server, bound to the event loop of its first use.

    Args:
        server: HOST:PORT or another address that gRPC resolves.
        access: Key and TLS.
    """

    def __init__(self, server: str, access: Access) -> None:
        self._server = server
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._vision: Any = None
        self._closed = False

    def vision(self) -> Any:
        """Return the Vision service's stub for the running loop.

        Raises:
            ClientClosed: After `close`.
            RuntimeError: The channel belongs to another loop that is not closed.
        """
        if self._closed:
            raise ClientClosed
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("this AsyncClient is used by another event loop: create one for each")
            self._loop = loop
            # gRPC binds a channel to the running loop.
            self._channel = self._access.aio_channel(self._server, OPTIONS)
            self._vision = vision_stub(self._channel, self._access.metadata)
        return self._vision

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
