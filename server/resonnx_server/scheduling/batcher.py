"""A model's queue and the choice of its next batch. Pure: no I/O, no threads, the clock is an argument.

              push                                  take
    request ──────► waiting (by priority, FIFO) ─────────────► batch of equal shapes, at a size of the latency table
                       │   │ discard (caller gone)             (of a request of many rows, as many as there is room for)
                       │   └──────► dropped
                       └ deadline cannot be met any more ─► expired

Work-conserving: with max_delay_ns 0 whatever waits is ready at once. What a call costs does not grow with what waits
(queue.py): a take looks at no more entries than fit into a batch, and at some that are late.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, takewhile
from typing import Final, Generic, TypeVar

from resonnx_server.errors import Overloaded, ServerError
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.lateness import lateness
from resonnx_server.scheduling.queue import DEFAULT_PRIORITY, PRIORITY_LEVELS, Batch, Entry, WaitingQueue
from resonnx_server.scheduling.reservations import Expected, ExpectedRows

__all__ = ["DEFAULT_PRIORITY", "PRIORITY_LEVELS", "Batch", "Batcher", "Entry"]

T = TypeVar("T")

# Without a deadline or an objective, what has waited so long is as urgent as what is due now.
_PATIENCE_NS: Final = 1_000_000_000
# A model that nobody has asked for so long keeps no room on the device from others.
_FORGOTTEN_NS: Final = 10_000_000_000
# Late entries that one take hands out at most; the others follow at the next, for which nobody waits long.
_MOST_EXPIRED: Final = 64


class Batcher(Generic[T]):
    """Queue bounded in rows; first come, first served within a priority.

    Args:
        table: Costs by batch size; its sizes are the only ones run.
        max_queue_rows: Rows that may wait.
        max_delay_ns: How long the oldest may wait for company; 0 never waits.
        objective_ns: Time from arrival to answer that the model should keep; steers the batch size, refuses nothing.
        max_concurrent_batches: Batches that may run at once.
        alone: Costs of a batch beside which nothing runs, if that is another session's.
    """

    def __init__(
        self,
        table: LatencyTable,
        max_queue_rows: int,
        max_delay_ns: int = 0,
        objective_ns: int | None = None,
        max_concurrent_batches: int = 1,
        alone: LatencyTable | None = None,
    ) -> None:
        self.table = table
        self.max_queue_rows = max_queue_rows
        self.objective_ns = objective_ns
        self._max_concurrent_batches = max_concurrent_batches
        self._alone = alone or table
        self._max_delay_ns = max_delay_ns
        self._queue: WaitingQueue[T] = WaitingQueue()
        self._asked_ns: int | None = None
        # Of requests whose pictures are being decoded: they have their room, and those who come later wait for them.
        self._expected = ExpectedRows(max_queue_rows, table.largest, PRIORITY_LEVELS)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._queue)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def expected_rows(self) -> int:
        """Rows that room is kept for."""
        return self._expected.room

    def expected_ahead(self, priority: int) -> int:
        """Rows that are expected and that a request that came now would wait for."""
        return self._expected.ahead(priority)

    def expect(self, rows: int, priority: int = DEFAULT_PRIORITY, *, pictures: bool = True) -> Expected:
        """Keep room for a request's `rows` until they have `arrived`; see ExpectedRows for those of many pictures.

        Args:
            rows: The request's.
            priority: The request's.
            pictures: They have to be decoded first.

        Raises:
            Overloaded: The queue has no room; says when it should.
        """
        self._check_room(rows)
        if pictures and not self._expected.leaves_room(rows, priority):
            raise self._overloaded(
                f"pictures to be decoded hold {self.expected_rows} rows of the queue, and with requests of several may "
                f"hold {self._expected.most_of_many}"
            )
        return self._expected.add(rows, priority, pictures=pictures)

    def arrived(self, expected: Expected, rows: int) -> None:
        """Give back what was kept for `rows`, which are pushed now or will not come."""
        self._expected.arrived(expected, rows)

    def push(self, entries: list[Entry[T]]) -> None:
        """Queue all of `entries` or none. Raises Overloaded if the queue has no room; it says when it should."""
        rows = sum(entry.rows for entry in entries)
        self._check_room(rows)
        for entry in entries:
            self._queue.add(entry)
            self._asked_ns = entry.arrival_ns

    def discard(self, entry: Entry[T]) -> bool:
        """Forget an entry whose caller has gone; False if it is not waiting (any more)."""
        if entry not in self._queue:
            return False
        self._queue.remove(entry)
        return True

    def ready_at_ns(self, enough: int = 1) -> int | None:
        """When `take` would give a batch: a time in the past is now, None is never.

        Args:
            enough: Rows for which a batch pays (one of the table's sizes at most). Fewer wait for company, but not
                beyond the moment at which the most urgent would be late.
        """
        first = self._queue.first_of_each()
        if not first:
            return None
        at = min(entry.arrival_ns for entry in first)
        is_few = self.rows < enough
        if not is_few and (not self._max_delay_ns or self.rows >= self.table.largest):
            return at
        if is_few:
            return max(at, int(min(map(self._due_ns, self)) - self.table.cost_ns(self.table.padded_batch_size(enough))))
        wanted = self._wanted(self)
        last = min(wanted) - int(self.table.cost_ns(self.table.largest)) if wanted else math.inf
        return max(at, int(min(at + self._max_delay_ns, last)))

    def live_objective_ns(self, now_ns: int) -> int | None:
        """Return the objective if anybody has asked lately: what others must leave room for."""
        is_forgotten = self._asked_ns is None or now_ns - self._asked_ns > _FORGOTTEN_NS
        return None if is_forgotten else self.objective_ns

    def due_ns(self) -> int | None:
        """When the most urgent of those who are next should be answered: the time that devices compare models by.

        Who waits behind others of a higher priority does not count yet: what would run is not theirs.
        """
        return min(map(self._due_ns, self._next_up()), default=None)

    def wait_ns(self, rows: int, priority: int) -> float:
        """Expected time until a request of `rows` that came now would be done, once a lane is free.

        Args:
            rows: The request's.
            priority: The request's.
        """
        return self.ahead_ns(priority) + self.own_ns(rows)

    def ahead_ns(self, priority: int) -> float:
        """Expected time until what goes before a request that came now would be done, once a lane is free."""
        ahead = self.expected_ahead(priority) + self._queue.rows_before(priority)
        return self.table.drain_ns(ahead) / self._max_concurrent_batches if ahead else 0.0

    def own_ns(self, rows: int) -> float:
        """Expected time of a request's rows on a device that does nothing else."""
        return min(self._alone.time_ns(rows), self.table.time_ns(-(-rows // self._max_concurrent_batches)))

    def shortest_ns(self) -> float:
        """Expected time of the shortest batch that could be next; 0 if nothing waits."""
        return self.table.cost_ns(self.table.padded_batch_size(1)) if self.rows else 0.0

    def take(self, now_ns: int, limit: int | None = None, budget_ns: float | None = None) -> Batch[T]:
        """Remove and return the next batch: what fits into it, in order; what does not fit as a whole waits on in part.

        The size is the one that serves most rows a second of those that still answer the batch's most urgent member in
        time; where none does, time is lost already and throughput alone decides.

        Args:
            now_ns: Monotonic time; entries whose deadline cannot be met even alone are returned as expired: not
                necessarily all of them, but none is run.
            limit: Most rows wanted (at least 1), if fewer than the table's largest size.
            budget_ns: Longest batch wanted, because others wait for the device.
        """
        alike, expired = self._next(now_ns)
        if not alike:
            return Batch([], 0, expired)
        waiting = sum(entry.rows for entry in alike)
        if limit is not None:
            waiting = min(waiting, limit)
        rows = room = min(waiting, self._best_size(alike, waiting, now_ns, budget_ns))
        chosen: list[Entry[T]] = []
        for entry in alike:
            if entry.rows > room:
                if room:
                    chosen.append(self._cut(entry, room))
                break
            room -= entry.rows
            self._queue.remove(entry)
            chosen.append(entry)
        return Batch(chosen, self.table.padded_batch_size(rows), expired)

    def lateness(self, entry: Entry[T], now_ns: int) -> ServerError:
        """Return what the caller of an expired entry is told; see lateness.py."""
        takes_ns, quickest_ns = self.own_ns(entry.rows), self._quickest_ns(entry.rows)
        return lateness(entry, now_ns, takes_ns=takes_ns, quickest_ns=quickest_ns, drain_ns=self._drain_ns())

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        return self._queue.clear()

    def _check_room(self, rows: int) -> None:
        queued = self.rows + self.expected_rows
        if queued + rows > self.max_queue_rows:
            raise self._overloaded(f"the queue holds {queued} rows and may hold {self.max_queue_rows}")

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded.for_ns(message, self._drain_ns())

    def _drain_ns(self) -> float:
        """Expected time until all that waits, or is about to, is done."""
        return self.table.drain_ns(self.rows + self.expected_rows) / self._max_concurrent_batches

    def _next(self, now_ns: int) -> tuple[list[Entry[T]], list[Entry[T]]]:
        """Return who is next with those alike behind it, as many as a batch could hold, and the late, who are removed.

        Those are who was found late before them.
        """
        quickest: dict[int, float] = {}

        def is_late(entry: Entry[T]) -> bool:
            if entry.deadline_ns is None:
                return False
            if (ns := quickest.get(entry.rows)) is None:
                ns = quickest[entry.rows] = self._quickest_ns(entry.rows)
            return now_ns + ns > entry.deadline_ns

        expired = list(islice(takewhile(is_late, self._queue), _MOST_EXPIRED))
        self._queue.remove(*expired)
        first = next(iter(self._queue), None)
        if first is None or len(expired) == _MOST_EXPIRED:
            return [], expired
        alike: list[Entry[T]] = []
        late: list[Entry[T]] = []
        rows = 0
        for entry in self._queue.alike(first.shape):
            if is_late(entry):
                late.append(entry)
            else:
                alike.append(entry)
                rows += entry.rows
            if rows >= self.table.largest or len(late) == _MOST_EXPIRED:
                break
        self._queue.remove(*late)
        return alike, expired + late

    def _next_up(self) -> Iterator[Entry[T]]:
        """Yield those of the first priority that the next batch could hold."""
        rows = 0
        for entry in self._queue.first_level():
            yield entry
            rows += entry.rows
            if rows >= self.table.largest:
                return

    def _best_size(self, alike: list[Entry[T]], waiting: int, now_ns: int, budget_ns: float | None) -> int:
        limit = math.inf if budget_ns is None else budget_ns
        if wanted := self._wanted(alike):
            limit = min(limit, min(wanted) - now_ns)
        return self.table.best_size(waiting, limit)

    def _due_ns(self, entry: Entry[T]) -> int:
        due = entry.arrival_ns + (_PATIENCE_NS if self.objective_ns is None else self.objective_ns)
        return due if entry.deadline_ns is None else min(due, entry.deadline_ns)

    def _wanted(self, entries: Iterable[Entry[T]]) -> list[int]:
        """Return when answers are wanted at the latest, of entries of which anybody has said so."""
        if self.objective_ns is not None:
            return [self._due_ns(entry) for entry in entries]
        return [entry.deadline_ns for entry in entries if entry.deadline_ns is not None]

    def _quickest_ns(self, rows: int) -> float:
        """Time in which a request's rows could be done on an idle device: as quick as batches often are."""
        return min(self._alone.quick_ns(rows), self.table.quick_ns(-(-rows // self._max_concurrent_batches)))

    def _cut(self, entry: Entry[T], rows: int) -> Entry[T]:
        """Remove and return the first `rows` of an entry; the others keep its place."""
        part = replace(entry, rows=rows)
        entry.start += rows
        self._queue.shrink(entry, rows)
        return part
