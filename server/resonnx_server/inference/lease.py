"""Counts the requests that a version serves, so that it is closed after the last of them."""

import asyncio


class Lease:
    """The requests that hold a version. Event loop only."""

    __slots__ = ("_free", "held")

    def __init__(self) -> None:
        self.held = 0
        # Made when something waits.
        self._free: asyncio.Event | None = None

    def take(self) -> None:
        """Hold it."""
        self.held += 1

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
