"""A model's queue and the choice of its next batch. Pure: no I/O, no threads, the clock is an argument.

              push                      take
    request ──────► waiting (FIFO) ─────────────► batch of equal shapes, at a size of the latency table
                       │   │ discard (caller gone)
                       │   └──────► dropped
                       └ deadline passed at take ─► expired

Work-conserving: with max_delay_ns 0 whatever waits is ready at once.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from resonnx_server.engine.latency import LatencyTable
from resonnx_server.errors import Overloaded

T = TypeVar("T")

_RETRY_AFTER_MS = (20, 2000)


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One request, or a piece of a large one.

    Attributes:
        rows: Rows of the batch that it takes.
        arrival_ns: Monotonic time of arrival.
        deadline_ns: Monotonic time after which nobody wants the answer.
        shape: Entries share a batch only if equal.
    """

    payload: T
    rows: int
    arrival_ns: int
    deadline_ns: int | None = None
    shape: Hashable = None


@dataclass(slots=True)
class Batch(Generic[T]):
    """Entries to run together at batch size `size` (>= their rows), and entries that ran out of time."""

    entries: list[Entry[T]]
    size: int
    expired: list[Entry[T]]

    @property
    def rows(self) -> int:
        """Rows that carry requests; the rest of `size` is padding."""
        return sum(entry.rows for entry in self.entries)


class Batcher(Generic[T]):
    """FIFO queue bounded in rows.

    Args:
        table: Costs by batch size; its sizes are the only ones run.
        max_queue_rows: Rows that may wait.
        max_delay_ns: How long the oldest may wait for company; 0 never waits.
    """

    def __init__(self, table: LatencyTable, max_queue_rows: int, max_delay_ns: int = 0) -> None:
        self.table = table
        self.max_queue_rows = max_queue_rows
        self._max_delay_ns = max_delay_ns
        self._waiting: dict[Entry[T], None] = {}  # an ordered set: discard from the middle is O(1)
        self.rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, entries: list[Entry[T]]) -> None:
        """Queue all of `entries` or none.

        Raises:
            Overloaded: The queue has no room; says when it should.
        """
        rows = sum(entry.rows for entry in entries)
        if self.rows + rows > self.max_queue_rows:
            low, high = _RETRY_AFTER_MS
            retry_after_ms = int(self.table.drain_ns(self.rows) / 1e6)
            raise Overloaded(
                f"the queue holds {self.rows} rows and may hold {self.max_queue_rows}",
                min(max(retry_after_ms, low), high),
            )
        self._waiting.update(dict.fromkeys(entries))
        self.rows += rows

    def discard(self, entry: Entry[T]) -> bool:
        """Forget an entry whose caller has gone; False if it is not waiting (any more)."""
        if entry not in self._waiting:
            return False
        self._remove(entry)
        return True

    def oldest_ns(self) -> int | None:
        """Arrival of the first in the queue."""
        return next(iter(self._waiting)).arrival_ns if self._waiting else None

    def ready_at_ns(self) -> int | None:
        """When `take` would give a batch: a time in the past is now, None is never."""
        oldest = self.oldest_ns()
        if oldest is None or self.rows >= self.table.largest:
            return oldest
        return oldest + self._max_delay_ns

    def take(self, now_ns: int, limit: int | None = None) -> Batch[T]:
        """Remove and return the next batch: the oldest entry and what fits with it, in order of arrival.

        Args:
            now_ns: Monotonic time; entries whose deadline is not after it are returned as expired.
            limit: Most rows wanted, if fewer than the table's largest size.
        """
        expired = [e for e in self._waiting if e.deadline_ns is not None and e.deadline_ns <= now_ns]
        for entry in expired:
            self._remove(entry)
        if not self._waiting:
            return Batch([], 0, expired)
        first = next(iter(self._waiting))
        alike = [entry for entry in self._waiting if entry.shape == first.shape]
        waiting = sum(entry.rows for entry in alike)
        if limit is not None:
            waiting = min(waiting, max(limit, first.rows))
        size = self.table.best_size(waiting, first.rows)
        room = min(size, waiting)
        chosen: list[Entry[T]] = []
        for entry in alike:
            if entry.rows > room:
                break
            room -= entry.rows
            chosen.append(entry)
        for entry in chosen:
            self._remove(entry)
        rows = sum(entry.rows for entry in chosen)
        return Batch(chosen, min(size, self.table.bucket(rows)), expired)

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        entries = list(self._waiting)
        self._waiting.clear()
        self.rows = 0
        return entries

    def _remove(self, entry: Entry[T]) -> None:
        del self._waiting[entry]
        self.rows -= entry.rows
