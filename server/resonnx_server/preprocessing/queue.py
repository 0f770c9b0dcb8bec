"""The queue of pictures to decode: by priority, then by arrival, within a memory budget. Callers hold a lock."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from resonnx_server.scheduling.batcher import PRIORITY_LEVELS

T = TypeVar("T")
# For each priority, bytes and arrival number by job. Unlike a dict, an OrderedDict removes its first entries in O(1).
_Levels = list[OrderedDict[T, tuple[int, int]]]

# Pictures of a megapixel or two are outside the budget, so that they do not wait behind large ones.
SMALL_BYTES: Final = 16 << 20


class DecodeQueue(Generic[T]):
    """Jobs that wait for a thread and for memory.

    Large jobs never overtake a large job that waits for memory, so that each gets its turn. Small jobs need no budget.

    Args:
        max_bytes: Budget of all large jobs in progress; a larger job runs alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0
        self._arrivals = 0
        self._small: _Levels[T] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]
        self._large: _Levels[T] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]

    def put(self, job: T, priority: int, size: int) -> None:
        """Add a job.

        Args:
            job: Hashable; not in the queue yet.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            size: Its memory in bytes.
        """
        self._arrivals += 1
        levels = self._small if size <= SMALL_BYTES else self._large
        levels[priority - 1][job] = (size, self._arrivals)

    def remove(self, job: T, priority: int) -> bool:
        """Remove a job. Returns whether it was in the queue."""
        return any(levels[priority - 1].pop(job, None) is not None for levels in (self._small, self._large))

    def take(self) -> tuple[T, int] | None:
        """Remove the next job that fits the budget; returns it and the bytes for `give_back`, or None."""
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
        """Return the memory of a finished job."""
        self.bytes -= size

    def clear(self) -> list[T]:
        """Remove and return all jobs."""
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
        """Return level, arrival, job and bytes of the first job."""
        for level, jobs in enumerate(levels):
            for job, (size, arrival) in jobs.items():
                return level, arrival, job, size
        return None
