"""How tests wait for what other threads and processes do, and a time that only tests move."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; half a minute is for machines that are busy with something else."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns
