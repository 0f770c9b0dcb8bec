"""Receives the bodies of requests: charged before they are received, and unpacked within limits."""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from resonnx_server.errors import MessageTooLarge, NotSupported, TooSlow, UnreadableMessage
from resonnx_server.memory.budget import Charge
from resonnx_server.protocol.unpacking import Unpacker

# What aiohttp may have received when it is asked for more: its buffer, and what the system gives at once.
_AHEAD_BYTES: Final = 3 << 17
_PACKED: Final = ("gzip", "x-gzip", "deflate")
# Of a body that is not wanted, so that its client can read why.
DISCARDED_BYTES: Final = 1 << 20
_DISCARDED_S: Final = 1.0


class Bodies:
    """Receives bodies.

    Args:
        unpacker: Unpacks them.
        max_receive_s: Time limit for receiving one.
    """

    def __init__(self, unpacker: Unpacker, max_receive_s: float) -> None:
        self._unpacker = unpacker
        self._max_receive_s = max_receive_s

    async def receive(self, request: web.Request, charge: Charge, most: int) -> bytes | bytearray:
        """Return the body of a request, unpacked.

        Args:
            request: Its head.
            charge: Holds the body.
            most: Limit of the body, packed and unpacked, in bytes.

        Raises:
            MessageTooLarge: It is, or unpacks to, more than the limit.
            UnreadableMessage: It breaks off, or does not unpack.
            NotSupported: It is packed otherwise than by gzip or deflate.
            TooSlow: It was not complete in time.
            MemorySpent: The memory budget, or the caller's share of it, is spent.
        """
        packing = request.headers.get("Content-Encoding", "identity").strip().lower()
        if packing not in ("identity", "", *_PACKED):
            raise NotSupported(f"Content-Encoding: {packing[:32]!r} is not one of gzip, deflate, identity")
        announced = request.content_length
        if announced is not None and announced > most:
            raise MessageTooLarge("the request", announced, most)
        try:
            async with asyncio.timeout(self._max_receive_s):
                body = await self._received(request, charge, announced, most)
        except TimeoutError:
            raise TooSlow(f"the request was not complete within {self._max_receive_s:g} s") from None
        except (web.RequestPayloadError, ClientPayloadError):
            raise UnreadableMessage("the request's body breaks off, or its chunks are not HTTP's") from None
        if packing not in _PACKED:
            return body
        unpacked, own = await self._unpacker.unpack(body, charge.caller, most)
        del body
        # From here on one charge holds it. No other caller comes between.
        size = own.nbytes
        own.release()
        charge.resize(size, held=True)
        return unpacked

    async def _received(self, request: web.Request, charge: Charge, announced: int | None, most: int) -> bytearray:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = bytearray()
        while True:
            ahead = len(body) + _AHEAD_BYTES
            charge.resize(ahead if announced is None else min(ahead, announced))
            part = await request.content.readany()
            if not part:
                break
            if len(body) + len(part) > most:
                raise MessageTooLarge("the request", len(body) + len(part), most)
            body += part
        charge.resize(len(body))
        return body


async def discard(request: web.Request) -> None:
    """Read what is left of a body, within limits: closed before that, the connection would lose the answer."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARDED_S):
            while size < DISCARDED_BYTES and (part := await request.content.readany()):
                size += len(part)
    except (TimeoutError, web.RequestPayloadError, ClientPayloadError):
        pass
