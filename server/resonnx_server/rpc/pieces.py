"""Work on large messages, done beside the event loop and in pieces: no request has the interpreter for long.

A thread alone would not do: a call into C keeps all threads waiting until it returns. Work is a generator that yields
after every piece of about a millisecond. Small work is done where it is asked for, as a thread costs more.
"""

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

Work = Generator[None, None, T]
# The turn of one request's work, after which others have theirs.
_TURN_NS: Final = 5_000_000


def at_once(work: Work[T]) -> T:
    """Do all of some small work here, and return what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


class Pieces:
    """One thread, so that at most one competes with the event loop for the interpreter; requests take turns on it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "pieces")

    async def run(self, work: Work[T]) -> T:
        """Do the work on the thread, turn by turn, and return what it returns, or raise what it raises.

        Cancelled, it ends with the turn under way.
        """
        loop = asyncio.get_running_loop()
        while True:
            ended = await loop.run_in_executor(self._thread, _turn, work)
            if ended is not None:
                return ended[0]


def _turn(work: Work[T]) -> tuple[T] | None:
    """Do some pieces; a tuple of the result when it was the last."""
    ends_ns = time.monotonic_ns() + _TURN_NS
    try:
        while time.monotonic_ns() < ends_ns:
            next(work)
            # Who waits for the interpreter has it between two pieces, not after the interval that Python gives threads.
            time.sleep(0)
    except StopIteration as end:
        return (end.value,)
    return None
