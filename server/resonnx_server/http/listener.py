"""Accepts HTTP connections within limits of their number, their rate, and the time and size of a request.

asyncio's own servers have none of these, and log a traceback a second while descriptors are exhausted.
"""

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from resonnx_server.pace import Pace

_log = logging.getLogger(__name__)

# From the first byte of a request, or a new connection, to the end of its head; also for a TLS handshake.
_REQUEST_S: Final = 10.0
# Between two requests. Longer than the usual interval of Prometheus, which keeps its connection.
IDLE_S: Final = 75.0
# From the head of a request to the answer.
_ANSWER_S: Final = 30.0
# Received between two answers.
_REQUEST_BYTES: Final = 16_384
_SWEEP_S: Final = 1.0
# Accepted connections a second, and at once. More wait in the system's queue, and cost nothing there.
_ACCEPTS_PER_S: Final = 200.0
_ACCEPTS_AT_ONCE: Final = 64
_BACKLOG: Final = 128
# After a failure to accept for lack of descriptors or memory.
_RETRY_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# A family of addresses, or an address, that the machine lacks.
_LACKING: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Connection(asyncio.Protocol):
    """A connection that passes received bytes to aiohttp's handler, within limits. `since` is the loop's time."""

    def __init__(self, listener: "Listener", handler: RequestHandler) -> None:
        self._listener = listener
        self._handler = handler
        self._transport: asyncio.BaseTransport | None = None
        self._received = 0
        # The state's time limit, and since when it counts.
        self._limit_s = _REQUEST_S
        self.since = asyncio.get_running_loop().time()
        self.is_busy = False
        # Makes the connection: TLS takes messages of the client.
        self.making: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to receive."""
        self._transport = transport
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self._limit_s == IDLE_S:
            self._enter(_REQUEST_S)
        self._received += len(data)
        if self._received > _REQUEST_BYTES:
            self.close()
        else:
            self._handler.data_received(data)

    def eof_received(self) -> None:
        """Take the end of what the client sends."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._listener.forget(self._handler)
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Write no more: the client reads slowly."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Write on."""
        self._handler.resume_writing()

    def begin(self) -> None:
        """Note that the head of a request is complete."""
        self.is_busy = True
        self._enter(_ANSWER_S)

    def finish(self) -> None:
        """Note that an answer is made."""
        self.is_busy = False
        self._received = 0
        self._enter(IDLE_S)

    def is_late(self, now_s: float) -> bool:
        """Whether the state has lasted too long."""
        return now_s - self.since > self._limit_s

    def close(self) -> None:
        """Close at once; unwritten data is lost."""
        self._listener.forget(self._handler)
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()
        elif self.making is not None:
            self.making.cancel()

    def _enter(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.since = asyncio.get_running_loop().time()


class Listener:
    """A port of HTTP. Beyond the limit of connections, the one that has waited longest is closed for a new one.

    Args:
        server: Makes handlers of connections.
        most: Connections at a time.
        tls: For TLS.
    """

    def __init__(self, server: web.Server, most: int, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._most = most
        self._tls = tls
        self._open: dict[RequestHandler, Connection] = {}
        self._accepts = Pace(_ACCEPTS_PER_S, _ACCEPTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_exhausted = False

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises OSError if it cannot be had."""
        sockets = await _bound(host, port)
        for listening in sockets:
            self._start(self._accept(listening))
        self._start(self._sweep())
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept no more; connections stay."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connection_of(self, handler: object) -> Connection | None:
        """Return the connection of a request's handler; None if it has been closed."""
        return self._open.get(handler)  # type: ignore[call-overload,no-any-return]  # any object may be looked up

    def forget(self, handler: RequestHandler) -> None:
        """Count a connection no longer."""
        self._open.pop(handler, None)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError as error:
                    await self._cannot_accept(error)
                    continue
                if self._is_exhausted:
                    self._is_exhausted = False
                    _log.info("HTTP connections are accepted again")
                if len(self._open) >= self._most:
                    self._close_one()
                handler = self._server()
                connection = self._open[handler] = Connection(self, handler)
                connection.making = self._start(self._make(connection, handler, accepted))
                await asyncio.sleep(self._accepts.delay_ns(time.monotonic_ns()) / 1e9)

    async def _cannot_accept(self, error: OSError) -> None:
        """Wait, unless only the client has gone."""
        if error.errno in _EXHAUSTED:
            if not self._is_exhausted:
                self._is_exhausted = True
                _log.error("cannot accept HTTP connections", extra={"why": error.strerror})
            if self._open:
                self._close_one()
            await asyncio.sleep(_RETRY_S)

    async def _make(self, connection: Connection, handler: RequestHandler, accepted: socket.socket) -> None:
        handshake_s = None if self._tls is None else _REQUEST_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:
            # The handshake failed, took too long, or the client has gone.
            self.forget(handler)

    def _close_one(self) -> None:
        """Close the connection whose request has not come for longest, or if all are busy, the oldest."""
        min(self._open.values(), key=lambda each: (each.is_busy, each.since)).close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            for connection in [each for each in self._open.values() if each.is_late(loop.time())]:
                connection.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host that the machine has."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            sockets.append(_listening(family, address))
        except OSError as error:
            failed = error
            if error.errno not in _LACKING:
                break
    if failed is not None and (not sockets or failed.errno not in _LACKING):
        for each in sockets:
            each.close()
        raise failed
    return sockets


def _listening(family: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
