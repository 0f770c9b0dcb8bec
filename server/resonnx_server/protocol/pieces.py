"""Work on large messages, on a thread and in pieces, so that no request holds the interpreter for long.

A thread alone does not suffice: a call into C holds the GIL until it returns. Work is a generator that yields after
every piece of about a millisecond. Small work is done in place, as a thread costs more.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

Work = Generator[None, None, T]
# Time slice of one request's work.
_TURN_NS: Final = 5_000_000


def at_once(work: Work[T]) -> T:
    """Do all of some small work here, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


class Pieces:
    """One thread, so that at most one competes with the event loop for the interpreter; requests take turns on it."""

    def __init__(self, name: str = "pieces") -> None:
        self._thread = ThreadPoolExecutor(1, name)

    def after(self, act: Callable[[], object]) -> None:
        """Call `act` on the thread, after the slice that a cancelled `run` may have left under way."""
        self._thread.submit(act)

    async def run(self, work: Work[T]) -> T:
        """Do the work on the thread, in time slices; return its result. Cancelled, it ends with the current slice."""
        loop = asyncio.get_running_loop()
        while True:
            ended = await loop.run_in_executor(self._thread, _turn, work)
            if ended is not None:
                return ended[0]


def _turn(work: Work[T]) -> tuple[T] | None:
    """Do some pieces, and return a tuple of the result if they were the last."""
    ends_ns = time.monotonic_ns() + _TURN_NS
    try:
        while time.monotonic_ns() < ends_ns:
            next(work)
            # Hand over the GIL between two pieces, not only after the interpreter's switch interval.
            time.sleep(0)
    except StopIteration as end:
        return (end.value,)
    return None
