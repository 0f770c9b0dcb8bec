"""Counts the requests that a version serves, so that it is closed after the last of them."""

import asyncio
from collections.abc import Callable


class Lease:
    """The requests that hold a version. Event loop only.

    Attributes:
        held: Number of requests.
        on_take: Called with each request that comes; None for nothing.
    """

    __slots__ = ("_free", "held", "on_take")

    def __init__(self) -> None:
        self.held = 0
        self.on_take: Callable[[], None] | None = None
        # Made when something waits.
        self._free: asyncio.Event | None = None

    def take(self) -> None:
        """Hold it."""
        self.held += 1
        if self.on_take is not None:
            self.on_take()

    def give_back(self) -> None:
        """Hold it no longer."""
        self.held -= 1
        if not self.held and self._free is not None:
            self._free.set()

    async def is_free(self) -> None:
        """Wait until nothing holds it."""
        if self.held:
            self._free = asyncio.Event()
            await self._free.wait()
