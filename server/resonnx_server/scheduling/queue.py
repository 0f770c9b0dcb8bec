"""One model's requests from their admission to their batch: reserved rows, waiting entries, and the room they share.

`RequestQueue` owns all three, under the device's lock. No call costs more the longer the queue is.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from resonnx_server.errors import DeadlineExceeded, Overloaded, WaitTooLong
from resonnx_server.scheduling.deadline_admission import DeadlineAdmission, Decoding, Objective, Prediction
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import AnyInstanceGroup

T = TypeVar("T")

# Priority levels as Triton counts them: 1 is the most urgent. A request that names none gets the middle.
PRIORITY_LEVELS: Final = 8
DEFAULT_PRIORITY: Final = 4


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """Rows of one request that wait, or that are in a batch.

    Attributes:
        rows: Number of rows; any number while it waits.
        arrival_ns: Monotonic time of arrival.
        deadline_ns: Monotonic time after which the answer is useless.
        shape: Entries share a batch only if their shapes are equal.
        priority: 1 (first) to PRIORITY_LEVELS.
        start: Index of its first row within the request.
        found_idle: On arrival the queue was empty and no lane was busy, so a late answer is not due to a wait.
    """

    payload: T
    rows: int
    arrival_ns: int
    deadline_ns: int | None = None
    shape: Hashable = None
    priority: int = DEFAULT_PRIORITY
    start: int = 0
    found_idle: bool = False


@dataclass(slots=True, eq=False)
class QueueReservation:
    """An admitted request without its payload, whose pictures may still have to be decoded.

    `with engine.reserve(…) as reservation: … await engine.submit(work, reservation)`. Rows that have not been submitted
    when the block ends are released.

    Attributes:
        rows: Rows not submitted yet.
        room: Rows of the queue's limit that are kept free for them.
        ahead: Rows that later requests are predicted to wait for: one batch at most.
        deadline_ns: The request's monotonic deadline, or None.
        priority: 1 (first) to PRIORITY_LEVELS.
        prediction: Compared with the outcome when the block ends, if not None.
        row_demand: Of each row; see RequestQueue.reserve.
        whole: Likewise.
    """

    queue: "RequestQueue[Any]"
    rows: int
    room: int
    ahead: int
    deadline_ns: int | None
    priority: int
    prediction: Prediction | None = None
    row_demand: Any = None
    whole: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows or self.prediction is not None:
            self.queue.end(self, error)


# Ordered sets. Plain dicts are slow here: finding the first key walks over all keys removed before it.
_Level = OrderedDict[Entry[T], None]


class RequestQueue(Generic[T]):
    """Waiting entries by priority, first come, first served within one, and rows reserved for requests to come.

    Decoding a request of many pictures may take minutes. Therefore such requests reserve at most a quarter of the queue
    each, and half of it together with all that precede them; their other rows need room when they are pushed.

    Args:
        device: Whose lock guards the queue.
        sessions: They run the batches; predictions use their latencies.
        max_queue_rows: Limit of waiting and reserved rows together.
        max_delay_ns: Longest time that the oldest entry waits for company; 0 never waits.
        objective: Target latency of the model, or None.
        tables: All tables used in predictions, if more than those of `sessions`.
    """

    def __init__(
        self,
        device: Device,
        sessions: AnyInstanceGroup,
        max_queue_rows: int,
        max_delay_ns: int = 0,
        objective: Objective | None = None,
        tables: Sequence[LatencyTable] = (),
    ) -> None:
        self.device = device
        self.max_queue_rows = max_queue_rows
        self.rows = self.reserved_rows = 0
        self.table, self._latency_table = sessions.table, sessions.latency_session.table
        self._max_concurrent_batches = sessions.max_concurrent_batches
        self._max_delay_ns = max_delay_ns
        self._objective_ns = None if objective is None else objective.latency_ns
        self._last_arrival_ns: int | None = None
        self._admission = DeadlineAdmission(device, objective)
        self._tables = tables or sessions.tables
        self._levels: list[_Level[T]] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]
        # Levels are created on demand: there may be many entries of few shapes, or few entries of many shapes.
        self._shapes: dict[Hashable, dict[int, _Level[T]]] = {}
        self._rows, self._room, self._ahead = ([0] * PRIORITY_LEVELS for _ in range(3))

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __iter__(self) -> Iterator[Entry[T]]:
        """Yield all entries in the order in which they are served. The queue must not change meanwhile."""
        for level in self._levels:
            yield from level

    def reserve(
        self,
        rows: int,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
        predict: Callable[[], tuple[float, float]] | None = None,
        *,
        row_demand: Any = None,
        whole: bool = False,
    ) -> QueueReservation:
        """Admit a request of `rows` and reserve room for them. For other arguments and errors see Engine.reserve.

        `predict` returns the expected ns of the request's own work on an idle device, and of the queue before it; it
        replaces `own_ns` and `ahead_ns`. `row_demand` is the work that each row causes after its batch, for engines
        with a second stage. A `whole` request is one row that shares no batch; its time corrects no predictions.
        """
        prediction = None
        if deadline_ns is not None or self._admission.sheds:
            # The machine may have been slow, and no batch has shown lately that it still is.
            for table in self._tables:
                table.fade()
            own_ns, ahead_ns = predict() if predict else (self.own_ns(rows), self.ahead_ns(priority))
            prediction = self._admission.check(own_ns, deadline_ns, decoding, ahead_ns)
        self._check_room(rows)
        room = rows
        if decoding is not None:
            room, most = min(rows, max(1, self.max_queue_rows // 4)), max(1, self.max_queue_rows // 2)
            if rows > 1 and sum(self._room[:priority]) + room > most:
                raise self._overloaded(
                    f"pictures to be decoded hold {self.reserved_rows} rows of the queue, and with requests of several "
                    f"may hold {most}"
                )
        ahead = min(rows, self.table.largest)
        kept = None if whole else prediction
        reservation = QueueReservation(self, rows, room, ahead, deadline_ns, priority, kept, row_demand, whole)
        self._count_reserved(reservation, room, ahead)
        return reservation

    def release(self, reservation: QueueReservation, rows: int) -> None:
        """Release the reserved room of `rows`, at most those left."""
        rows = min(rows, reservation.rows)
        room, ahead = min(rows, reservation.room), min(rows, reservation.ahead)
        reservation.rows -= rows
        reservation.room -= room
        reservation.ahead -= ahead
        self._count_reserved(reservation, -room, -ahead)

    def end(self, reservation: QueueReservation, error: BaseException | None) -> None:
        """Release the rest of a reservation, and learn from the outcome. Takes the lock itself."""
        with self.device.lock:
            self.release(reservation, reservation.rows)
            if (prediction := reservation.prediction) is None:
                return
            passed = self.device.clock() - prediction.at_ns > prediction.allowed_ns
            cancelled = isinstance(error, asyncio.CancelledError)
            too_late = isinstance(error, DeadlineExceeded | WaitTooLong) or (cancelled and passed)
            # A request that was cancelled early or whose picture is bad says nothing about the wait.
            if error is None or too_late:
                self._admission.learn(prediction, too_late=too_late)

    def push(self, entry: Entry[T], reservation: QueueReservation) -> None:
        """Queue an entry in place of its reserved rows. Raises Overloaded if room for them was not reserved."""
        self.release(reservation, entry.rows)
        self._check_room(entry.rows)
        entry.found_idle = not self.rows and self.device.idle_lanes() == self.device.lanes
        self._last_arrival_ns = entry.arrival_ns
        self._levels[entry.priority - 1][entry] = None
        self._shapes.setdefault(entry.shape, {}).setdefault(entry.priority, OrderedDict())[entry] = None
        self._count_waiting(entry, entry.rows)

    def discard(self, entry: Entry[T]) -> bool:
        """Remove the entry of a cancelled request; False if it does not wait (any more)."""
        if entry not in self._levels[entry.priority - 1]:
            return False
        self._remove(entry)
        return True

    def clear(self) -> list[Entry[T]]:
        """Remove and return all entries."""
        entries = list(self)
        self._remove(*entries)
        return entries

    def own_ns(self, rows: int) -> float:
        """Expected time of a request's rows on an idle device."""
        concurrent_ns = self.table.time_ns(-(-rows // self._max_concurrent_batches))
        return min(self._latency_table.time_ns(rows), concurrent_ns)

    def ahead_ns(self, priority: int) -> float:
        """Expected time until all rows that precede a new request are done, once a lane is free."""
        ahead = sum(self._ahead[:priority]) + sum(self._rows[:priority])
        return self.table.drain_ns(ahead) / self._max_concurrent_batches if ahead else 0.0

    def drain_ns(self) -> float:
        """Expected time until all waiting and reserved rows are done."""
        return self.table.drain_ns(self.rows + self.reserved_rows) / self._max_concurrent_batches

    def _remove(self, *entries: Entry[T]) -> None:
        for entry in entries:
            del self._levels[entry.priority - 1][entry]
            shape = self._shapes[entry.shape]
            del shape[entry.priority][entry]
            if not shape[entry.priority]:
                del shape[entry.priority]
            if not shape:
                del self._shapes[entry.shape]
            self._count_waiting(entry, -entry.rows)

    def _count_waiting(self, entry: Entry[T], rows: int) -> None:
        """Count rows of an entry that begin to wait, or (negative) no longer do."""
        self._rows[entry.priority - 1] += rows
        self.rows += rows

    def _count_reserved(self, reservation: QueueReservation, room: int, ahead: int) -> None:
        """Count rows that are reserved, or (negative) released."""
        self._room[reservation.priority - 1] += room
        self._ahead[reservation.priority - 1] += ahead
        self.reserved_rows += room

    def _check_room(self, rows: int) -> None:
        used = self.rows + self.reserved_rows
        if used + rows > self.max_queue_rows:
            raise self._overloaded(f"the queue holds {used} rows and may hold {self.max_queue_rows}")

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded.for_ns(message, self.drain_ns())
