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

from resonnx_server.http.connection import REQUEST_S, Connection, Stage
from resonnx_server.pace import Pace

_log = logging.getLogger(__name__)

_SWEEP_S: Final = 1.0
# Accepted connections a second, and at once. More wait in the system's queue, and cost nothing there.
_ACCEPTS_PER_S: Final = 200.0
_ACCEPTS_AT_ONCE: Final = 64
_BACKLOG: Final = 128
_VACATE_S: Final = 0.01
# After a failure to accept for lack of descriptors or memory.
_RETRY_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# A family of addresses, or an address, that the machine lacks.
_LACKING: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Listener:
    """A port of HTTP. Beyond the limit of connections, one that runs no request is closed for a new one.

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
        self._accepting: list[asyncio.Task[None]] = []
        self._is_exhausted = False

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises OSError if it cannot be had."""
        sockets = await _bound(host, port)
        self._accepting = [self._start(self._accept(listening)) for listening in sockets]
        self._start(self._sweep())
        return int(sockets[0].getsockname()[1])

    async def vacate(self) -> None:
        """Accept no more, and end each connection when it has no request under way; wait until none has."""
        for task in self._accepting:
            task.cancel()
        while [connection for connection in [*self._open.values()] if not connection.close_if_idle()]:  # noqa: ASYNC110
            await asyncio.sleep(_VACATE_S)

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
                if len(self._open) >= self._most and not self._close_one():
                    accepted.close()
                else:
                    handler = self._server()
                    connection = self._open[handler] = Connection(self.forget, handler)
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
        handshake_s = None if self._tls is None else REQUEST_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:
            # The handshake failed, took too long, or the client has gone.
            self.forget(handler)

    def _close_one(self) -> bool:
        """Close the connection whose request has not come for longest, or else the oldest that transfers something.

        Return whether there was one: requests that run go on.
        """
        first = min(self._open.values(), key=lambda each: (each.stage, each.since))
        if first.stage is Stage.INFERS:
            return False
        first.close()
        return True

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
