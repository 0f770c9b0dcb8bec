"""Unpacks gzip messages: bounded, charged by what they unpack to, off the event loop, and one at a time for a caller.

gRPC would unpack on the thread that serves all connections, without a bound on the time.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from resonnx_server.errors import TooLargeUnpacked, UnreadableMessage
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.protocol.pieces import Pieces, Work

# zlib's window, with the header of gzip or zlib: HTTP's "deflate" is the latter.
_WINDOW: Final = 47
# Unpacked at once: about a millisecond.
_PIECE_BYTES: Final = 1 << 18


class Unpacker:
    """Unpacks the messages of all calls.

    Args:
        budget: What messages unpack to is charged to it.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        # Not the thread of other large messages, which would wait for it.
        self._pieces = Pieces("unpack")
        # Turns of the callers that unpack or wait for it.
        self._turns: dict[str, _Turn] = {}

    async def unpack(self, message: bytes | bytearray, caller: str, most: int) -> tuple[bytes, Charge]:
        """Return a packed message unpacked, and the charge for it, which the caller of this function releases.

        Args:
            message: A gzip stream, or a zlib stream.
            caller: The charge is this caller's.
            most: Limit of the unpacked size, in bytes.

        Raises:
            TooLargeUnpacked: It unpacks to more than `most`.
            UnreadableMessage: It is not one complete stream.
            MemorySpent: The memory budget, or the caller's share of it, is spent.
        """
        charge = Charge(self._budget, caller)
        try:
            async with self._turn(caller):
                return await self._pieces.run(_unpacked(message, most, charge)), charge
        except BaseException:
            # Where the call was cancelled, the thread may be about to charge more.
            self._pieces.after(charge.release)
            raise

    @asynccontextmanager
    async def _turn(self, caller: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(caller, _Turn())
        turn.count += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[caller]


class _Turn:
    """A lock, and how many hold or want it."""

    __slots__ = ("count", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0


def _unpacked(message: bytes | bytearray, most: int, charge: Charge) -> Work[bytes]:
    unpacker = zlib.decompressobj(_WINDOW)
    parts: list[bytes] = []
    size = 0
    try:
        for start in range(0, len(message), _PIECE_BYTES):
            rest = message[start : start + _PIECE_BYTES]
            while rest and not unpacker.eof:
                part = unpacker.decompress(rest, _PIECE_BYTES)
                rest = unpacker.unconsumed_tail
                size += len(part)
                if size > most:
                    raise TooLargeUnpacked(most)
                # Held twice while the parts are joined.
                charge.resize(2 * size)
                parts.append(part)
                yield
            if unpacker.unused_data or rest:
                raise UnreadableMessage("the request message has bytes after its gzip")
    except zlib.error:
        raise UnreadableMessage("the request message is no valid gzip") from None
    if not unpacker.eof:
        raise UnreadableMessage("the request message is gzip that breaks off")
    # Bytes are joined without the GIL if they are large.
    whole = b"".join(parts)
    charge.resize(size)
    return whole
