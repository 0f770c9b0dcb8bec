"""A connection of HTTP within limits of the time and size of a request. asyncio and aiohttp have none of these."""

import asyncio
import math
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum
from typing import Final

from aiohttp.web_protocol import RequestHandler

# From the first byte of a request, or a new connection, to the end of its head; also for a TLS handshake.
REQUEST_S: Final = 10.0
# Between two requests. Longer than the usual interval of Prometheus, which keeps its connection.
IDLE_S: Final = 75.0
# From the head of a request to the answer.
_ANSWER_S: Final = 30.0
# Received between two answers, beside bodies.
_REQUEST_BYTES: Final = 16_384
# A reader of an answer takes some of it at least so often.
_READ_S: Final = 30.0


class Stage(IntEnum):
    """What a connection does; where there are too many, those of the first stage are closed first."""

    WAITS = 0
    TRANSFERS = 1
    INFERS = 2


class Connection(asyncio.Protocol):
    """A connection that passes received bytes to aiohttp's handler, within limits.

    Args:
        forget: Called with the handler when the connection has ended.
        handler: Aiohttp's.

    Attributes:
        since: When its state began, by the loop's clock.
        stage: What it does.
        making: Makes the connection: TLS takes messages of the client.
    """

    def __init__(self, forget: Callable[[RequestHandler], None], handler: RequestHandler) -> None:
        self._forget = forget
        self._handler = handler
        self._transport: asyncio.BaseTransport | None = None
        self._received = 0
        # Limit of the bytes received, and those that came beyond it before the head was complete.
        self._allowed = _REQUEST_BYTES
        self._held = bytearray()
        # Bytes of an answer that the client had not read at the last check; None while none is sent.
        self._unread: int | None = None
        # The state's time limit, and since when it counts.
        self._limit_s = REQUEST_S
        self.since = asyncio.get_running_loop().time()
        self.stage = Stage.WAITS
        self.making: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to receive."""
        self._transport = transport
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self._limit_s == IDLE_S:
            self._enter(REQUEST_S)
        self._received += len(data)
        if self._received <= self._allowed:
            self._handler.data_received(data)
        elif self.stage is not Stage.WAITS:
            self.close()
        else:
            # Perhaps a body's beginning.
            room = max(0, self._allowed - (self._received - len(data)))
            self._held += data[room:]
            if isinstance(self._transport, asyncio.ReadTransport):
                self._transport.pause_reading()
            if room:
                self._handler.data_received(data[:room])

    def eof_received(self) -> None:
        """Take the end of what the client sends."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._forget(self._handler)
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Write no more: the client reads slowly."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Write on."""
        self._handler.resume_writing()

    def begin(self) -> None:
        """Note that the head of a request is complete."""
        self.stage = Stage.TRANSFERS
        self._enter(_ANSWER_S)
        self._pass_held()

    def begin_body(self, nbytes: int) -> None:
        """Note that the head of a request with a body of at most `nbytes` is complete; its page limits the time."""
        self.stage = Stage.TRANSFERS
        self._enter(math.inf)
        self._allowed = _REQUEST_BYTES + nbytes
        self._pass_held()

    def infer(self) -> None:
        """Note that the request is received, and runs."""
        self.stage = Stage.INFERS

    def send(self) -> None:
        """Note that an answer is sent from now on: its reader has to take some of it every 30 s."""
        self.stage = Stage.TRANSFERS
        self._unread = 0
        self._enter(_READ_S)

    def finish(self) -> None:
        """Note that an answer is made."""
        self.stage = Stage.WAITS
        self._received, self._allowed, self._unread = 0, _REQUEST_BYTES, None
        self._enter(IDLE_S)

    def _pass_held(self) -> None:
        if not self._held:
            return
        if self._received > self._allowed:
            self.close()
            return
        held, self._held = bytes(self._held), bytearray()
        if isinstance(self._transport, asyncio.ReadTransport):
            # First: aiohttp may pause it again.
            self._transport.resume_reading()
        self._handler.data_received(held)

    def is_late(self, now_s: float) -> bool:
        """Whether the state has lasted too long."""
        if self._unread is not None and isinstance(self._transport, asyncio.WriteTransport):
            before, self._unread = self._unread, self._transport.get_write_buffer_size()
            if not self._unread or self._unread < before:
                self.since = now_s
        return now_s - self.since > self._limit_s

    def close_if_idle(self) -> bool:
        """Close, if no request is under way and all is written; returns whether it is closed."""
        transport = self._transport
        if self.stage is not Stage.WAITS or self._received or not isinstance(transport, asyncio.WriteTransport):
            return False
        if transport.get_write_buffer_size():
            return False
        transport.close()
        return True

    def close(self) -> None:
        """Close at once; unwritten data is lost."""
        self._forget(self._handler)
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()
        elif self.making is not None:
            self.making.cancel()

    def _enter(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.since = asyncio.get_running_loop().time()


# The connection of a request with a body, in the request's task.
CONNECTION: Final[ContextVar[Connection]] = ContextVar("CONNECTION")
