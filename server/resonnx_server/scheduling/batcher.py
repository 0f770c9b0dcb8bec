"""The choice of a model's next batch: when it is ready, which entries, at which size. No threads; time is an argument.

              reserve               push                     take
    request ──────────► reserved ────────► waiting (by priority, FIFO) ────► batch of equal shapes, of a measured size
                            │                 │  │ discard (cancelled)       (large requests: as many rows as fit)
                            │ block ends      │  └──────────► dropped
                            └──► released     └ deadline cannot be met ─► expired

Work-conserving: with max_delay_ns 0, whatever waits is ready at once. A batch takes the rows of several callers in
turns, and never waits for the sake of one; it may be smaller (light_callers.py).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, ServerError, WaitTooLong
from resonnx_server.observe.stats import Dispatch
from resonnx_server.scheduling.deadline_admission import milliseconds
from resonnx_server.scheduling.light_callers import LightCallers
from resonnx_server.scheduling.queue import Entry, RequestQueue

T = TypeVar("T")

# Without a deadline or an objective, an entry is due after this time.
_PATIENCE_NS: Final = 1_000_000_000
# A model without requests for this long no longer limits the batches of other models.
_FORGOTTEN_NS: Final = 10_000_000_000
# Late entries that one `take` returns at most, so that the lock is never held for long.
_MOST_EXPIRED: Final = 64


@dataclass(slots=True)
class Batch(Generic[T]):
    """Entries to run together at batch size `size` (at least their rows), and entries that ran out of time.

    `dispatch` is why they run now.
    """

    entries: list[Entry[T]]
    size: int
    expired: list[Entry[T]]
    dispatch: Dispatch = Dispatch.IDLE

    @property
    def rows(self) -> int:
        """Rows of requests; the rest of `size` is padding."""
        return sum(entry.rows for entry in self.entries)


class Batcher(RequestQueue[T]):
    """A queue that chooses its next batch, at a size of its sessions' latency table."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._light = LightCallers(self.table)
        # The last call of ready_at_ns found fewer rows than make a batch efficient.
        self._are_few = False

    def ready_at_ns(self, enough: int = 1) -> int | None:
        """Return the monotonic time at which `take` gives a batch: a past time is now, None is never.

        Args:
            enough: Rows that make a batch efficient, one of the table's sizes at most. Fewer rows wait for company, but
                not beyond the moment at which the most urgent entry would be late.
        """
        if not self.rows:
            return None
        at = self.oldest_ns() or 0
        is_few = self._are_few = self.rows < enough
        if not is_few and (not self._max_delay_ns or self.rows >= self.table.largest):
            return at
        if is_few:
            last = min(map(self._due_ns, self)) - self.table.cost_ns(self.table.padded_batch_size(enough))
            return max(at, int(last))
        wanted = self._wanted(self)
        last = min(wanted) - int(self.table.cost_ns(self.table.largest)) if wanted else math.inf
        return max(at, int(min(at + self._max_delay_ns, last)))

    def oldest_ns(self) -> int | None:
        """Return when the entry that has waited longest came; None if none waits."""
        return min([next(iter(level)).arrival_ns for level in self._levels if level], default=None)

    def live_objective_ns(self) -> int | None:
        """Return the objective that other models must respect: none if no request has come lately."""
        last = self._last_arrival_ns
        return None if last is None or self.device.clock() - last > _FORGOTTEN_NS else self.objective_ns

    def due_ns(self) -> int | None:
        """Return when the most urgent entry of the next batch should be answered, by which devices rank models.

        Entries behind others of a higher priority do not count yet, as the next batch is not theirs.
        """
        due, rows = None, 0
        first = next((turns for level, turns in zip(self._levels, self._turns, strict=True) if level), None)
        for entry in () if first is None else first.in_order(self._expected_ns):
            entry_due = self._due_ns(entry)
            due = entry_due if due is None else min(due, entry_due)
            rows += entry.rows
            if rows >= self.table.largest:
                break
        return due

    def shortest_ns(self) -> float:
        """Return the expected time of the shortest batch that could be next; 0 if no entry waits."""
        return self.table.cost_ns(self.table.padded_batch_size(1)) if self.rows else 0.0

    def take(self, now_ns: int, limit: int | None = None, budget_ns: float | None = None) -> Batch[T]:
        """Remove and return the next batch.

        Its size serves most rows per second among those that still answer its most urgent entry in time; if none does,
        among all sizes. An entry that does not fit as a whole is split.

        Args:
            now_ns: Monotonic time. Entries that cannot meet their deadline even in a batch of their own are returned as
                expired: maybe not all of them, but none is run.
            limit: Most rows, at least 1, if fewer than the table's largest size.
            budget_ns: Longest batch, because other models wait for the device.
        """
        timed_out = [] if self._timeouts is None else self._take_timed_out(now_ns, _MOST_EXPIRED)
        alike, expired = self._next_alike(now_ns)
        expired += timed_out
        if not alike:
            return Batch([], 0, expired)
        waiting = sum(entry.rows for entry in alike)
        if limit is not None:
            waiting = min(waiting, limit)
        waiting = min(waiting, self._most_rows(alike[0]))
        limit_ns = math.inf if budget_ns is None else budget_ns
        if wanted := self._wanted(alike):
            limit_ns = min(limit_ns, min(wanted) - now_ns)
        turns = self._turns[alike[0].priority - 1]
        if self.rows > self.table.largest:
            waiting = min(waiting, self._light.most_rows(alike, turns, now_ns))
        rows = min(waiting, self.table.best_size(waiting, limit_ns))
        size = self.table.padded_batch_size(rows)
        dispatch = self._dispatch(alike[0], rows, waiting, limit_ns, now_ns)
        batch = Batch(self._remove_rows(alike, rows, self.table.cost_ns(size) / rows), size, expired, dispatch)
        for caller in {entry.caller for entry in batch.entries}:
            if not turns.waiting(caller):
                self._light.taken(caller, now_ns)
        return batch

    def _most_rows(self, first: Entry[T]) -> int:
        """Return the most rows, 1 or more, of a batch that begins with an entry."""
        return self.table.largest

    def _dispatch(self, first: Entry[T], rows: int, waiting: int, limit_ns: float, now_ns: int) -> Dispatch:
        """Return why `rows` of `waiting` rows, `first` before the others, run now, at most `limit_ns` long."""
        if rows >= self.table.largest:
            return Dispatch.FULL
        if self._are_few or (limit_ns < math.inf and rows < min(waiting, self.table.best_size(waiting, math.inf))):
            return Dispatch.DEADLINE
        if not self._max_delay_ns:
            return Dispatch.IDLE
        return Dispatch.DELAY if now_ns - first.arrival_ns >= self._max_delay_ns else Dispatch.DEADLINE

    def _take_timed_out(self, now_ns: int, most: int) -> list[Entry[T]]:
        """Handle up to `most` entries that have waited too long: remove and return them, or put them last."""
        if self._timeouts is None or self.policies is None:
            return []
        refused = []
        for entry in self._timeouts.due(now_ns, most):
            # One of which some rows run is served.
            if entry not in self._levels[entry.priority - 1] or entry.start:
                continue
            self._remove(entry)
            if self.policies.of(entry.priority).delays:
                entry.max_wait_ns = 0
                self._insert(entry)
            else:
                refused.append(entry)
        return refused

    def lateness(self, entry: Entry[Any], now_ns: int) -> ServerError:
        """Return the error of an expired entry."""
        if entry.max_wait_ns and entry.arrival_ns + entry.max_wait_ns <= now_ns:
            waited = milliseconds(now_ns - entry.arrival_ns)
            return WaitTooLong.for_ns(
                f"the request has waited {waited}; it may wait {milliseconds(entry.max_wait_ns)} (queue_timeout_us)",
                self.drain_ns(),
            )
        assert entry.deadline_ns is not None
        left_ns = entry.deadline_ns - now_ns
        if left_ns <= 0:
            return DeadlineExceeded("the deadline passed while the request waited")
        takes = milliseconds(self.own_ns(entry.rows))
        message = f"the request would take {takes} and its deadline allows {milliseconds(left_ns)}"
        # If it would have been in time without other requests, the wait for them is the reason.
        if not entry.found_idle and entry.arrival_ns + self._quickest_ns(entry.rows) <= entry.deadline_ns:
            return WaitTooLong.for_ns(f"after its wait {message}", self.drain_ns())
        return DeadlineUnreachable(message)

    def _next_alike(self, now_ns: int) -> tuple[list[Entry[T]], list[Entry[T]]]:
        """Return the first entry that is in time with those of equal shape behind it, as many as fill a batch.

        Late entries found on the way are removed and returned as well.
        """
        quickest: dict[int, float] = {}

        def is_late(entry: Entry[T]) -> bool:
            if entry.deadline_ns is None:
                return False
            if (ns := quickest.get(entry.rows)) is None:
                ns = quickest[entry.rows] = self._quickest_ns(entry.rows)
            return now_ns + ns > entry.deadline_ns

        expired: list[Entry[T]] = []
        first = None
        for entry in self:
            if not is_late(entry):
                first = entry
                break
            expired.append(entry)
            if len(expired) == _MOST_EXPIRED:
                break
        if expired:
            self._remove(*expired)
        if first is None:
            return [], expired
        if first.rows == self.rows:
            # Nothing else waits.
            return [first], expired
        # Of callers whose turns are equal, another may be the first among those of this shape.
        alike, rows = [first], first.rows
        late: list[Entry[T]] = []
        levels = self._shapes[first.shape]
        for entry in chain.from_iterable(levels[priority].in_order(self._expected_ns) for priority in sorted(levels)):
            if rows >= self.table.largest or len(late) == _MOST_EXPIRED:
                break
            if entry is first:
                continue
            if is_late(entry):
                late.append(entry)
            else:
                alike.append(entry)
                rows += entry.rows
        if late:
            self._remove(*late)
        return alike, expired + late

    def _remove_rows(self, entries: list[Entry[T]], rows: int, row_ns: float) -> list[Entry[T]]:
        """Remove and return the first `rows` of waiting entries, at `row_ns` each; the last entry may be split."""
        whole: list[Entry[T]] = []
        # By priority and caller: the cost, and that of a row.
        costs: dict[tuple[int, str], tuple[float, float]] = {}
        for entry in entries:
            if rows:
                quantum, key = entry.weight * row_ns, (entry.priority, entry.caller)
                cost, largest = costs.get(key, (0.0, 0.0))
                costs[key] = cost + min(entry.rows, rows) * quantum, max(largest, quantum)
            if entry.rows > rows:
                break
            whole.append(entry)
            rows -= entry.rows
        # Each caller once: who comes while the batch runs is no later than its beginning, but for a row.
        for (priority, caller), (cost, quantum) in costs.items():
            self._shares[priority - 1].charge(caller, cost, quantum)
            self.served.add(caller, cost)
        self._remove(*whole)
        if not rows:
            return whole
        part = replace(entry, rows=rows)
        entry.start += rows
        entry.rows -= rows
        self._count_waiting(entry, -rows)
        self._hold(entry.caller, entry.priority, 0 if entry.is_part else -rows, -rows)
        return [*whole, part]

    def _quickest_ns(self, rows: int) -> float:
        """Return the time of a request's rows on an idle device, if batches are as quick as they often are."""
        concurrent_ns = self.table.quick_ns(-(-rows // self._max_concurrent_batches))
        return min(self._latency_table.quick_ns(rows), concurrent_ns)

    def _due_ns(self, entry: Entry[T]) -> int:
        due = entry.arrival_ns + (_PATIENCE_NS if self.objective_ns is None else self.objective_ns)
        return due if entry.deadline_ns is None else min(due, entry.deadline_ns)

    def _wanted(self, entries: Iterable[Entry[T]]) -> list[int]:
        """Return the monotonic times at which entries with a deadline or an objective are due."""
        if self.objective_ns is not None:
            return [self._due_ns(entry) for entry in entries]
        return [entry.deadline_ns for entry in entries if entry.deadline_ns is not None]
