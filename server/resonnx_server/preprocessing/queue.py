"""Which picture is decoded next: by priority, then as they came, as far as the memory goes. Pure; callers lock."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from resonnx_server.scheduling.batcher import PRIORITY_LEVELS

T = TypeVar("T")
# Of each priority, job to bytes and arrival. What is cancelled leaves from the middle in O(1), and what is taken from
# the front leaves no gap to walk over, as in a plain dict.
_Levels = list[OrderedDict[T, tuple[int, int]]]

# What takes no more needs no memory of the budget: each thread may do one of these at any time, so that small pictures
# do not wait behind large ones that wait for memory. A megapixel or two.
SMALL_BYTES: Final = 16 << 20


class DecodeQueue(Generic[T]):
    """Jobs that wait for a thread and for memory, and the memory of those that are done.

    The large ones, of all priorities, take the memory in the order in which their turn comes: none passes another that
    waits for memory, so each has its turn however many come after it. Small ones wait for none of them.

    Args:
        max_bytes: What large jobs may take together; a single larger one is done alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0
        self._arrivals = 0
        self._small: _Levels[T] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]
        self._large: _Levels[T] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]

    def put(self, job: T, priority: int, size: int) -> None:
        """Let a job wait.

        Args:
            job: Hashable, and not in the queue.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            size: Bytes that it takes while it is done.
        """
        self._arrivals += 1
        levels = self._small if size <= SMALL_BYTES else self._large
        levels[priority - 1][job] = (size, self._arrivals)

    def remove(self, job: T, priority: int) -> bool:
        """Forget a job that waits. Returns False if it does not."""
        return any(levels[priority - 1].pop(job, None) is not None for levels in (self._small, self._large))

    def take(self) -> tuple[T, int] | None:
        """Take the next job that there is memory for, and its bytes, which `give_back` must return; None for none."""
        small, large = self._first(self._small), self._first(self._large)
        if large is not None and not self._fits(large[3]):
            large = None
        best = min((first for first in (small, large) if first is not None), default=None, key=lambda each: each[:2])
        if best is None:
            return None
        level, _, job, size = best
        if best is large:
            self.bytes += size
            del self._large[level][job]
            return job, size
        del self._small[level][job]
        return job, 0

    def give_back(self, size: int) -> None:
        """A job that was taken is done: its memory is free."""
        self.bytes -= size

    def clear(self) -> list[T]:
        """Return all that wait, and forget them."""
        left = list(self)
        for level in (*self._small, *self._large):
            level.clear()
        return left

    def __len__(self) -> int:
        return sum(map(len, (*self._small, *self._large)))

    def __iter__(self) -> Iterator[T]:
        return (job for levels in (self._small, self._large) for level in levels for job in level)

    def _fits(self, size: int) -> bool:
        return not self.bytes or self.bytes + size <= self._max_bytes

    @staticmethod
    def _first(levels: "_Levels[T]") -> tuple[int, int, T, int] | None:
        """Return the most urgent: its level, arrival, itself, and its bytes."""
        for level, jobs in enumerate(levels):
            for job, (size, arrival) in jobs.items():
                return level, arrival, job, size
        return None
