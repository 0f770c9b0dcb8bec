"""One model's requests from their admission to their batch: reserved rows, waiting entries, and the room they share.

`RequestQueue` owns all three, under the device's lock. No call costs more the longer the queue is. Within a priority,
room and batches are shared between callers (sharing.py).
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from resonnx_server.errors import DeadlineExceeded, Overloaded, WaitTooLong
from resonnx_server.scheduling.deadline_admission import DeadlineAdmission, Decoding, Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.entries import Entry as Entry
from resonnx_server.scheduling.entries import QueueReservation as QueueReservation
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue_policy import QueuePolicies, Timeouts
from resonnx_server.scheduling.session_pool import AnyInstanceGroup
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY, PRIORITY_LEVELS, Backlog, Served, Shares, Turns

T = TypeVar("T")

# Ordered sets. Plain dicts are slow here: finding the first key walks over all keys removed before it.
_Level = OrderedDict[Entry[T], None]


class RequestQueue(Generic[T]):
    """Waiting entries by priority, and rows reserved for requests to come.

    Within a priority callers are served in turns, by the device time that each has had; the entries of one caller first
    come, first served. While others fill the queue, a caller that holds less than an equal part of it has room beyond
    the limit, so that no flood of one caller is the reason to refuse another.

    Decoding a request of many pictures may take minutes. Therefore such requests reserve at most a quarter of the queue
    each, and half of it together with all that precede them; their other rows need room when they are pushed. No part
    of a request in parts is refused: all wait in the room that it reserved.

    Args:
        device: Whose lock guards the queue.
        sessions: They run the batches; predictions use their latencies.
        max_queue_rows: Limit of waiting and reserved rows together, but for callers below their part.
        max_delay_ns: Longest time that the oldest entry waits for company; 0 never waits.
        objective: Target latency of the model, or None.
        tables: All tables used in predictions, if more than those of `sessions`.
        policies: Limits by priority; None for no further ones.
    """

    def __init__(
        self,
        device: Device,
        sessions: AnyInstanceGroup,
        max_queue_rows: int,
        max_delay_ns: int = 0,
        objective: Objective | None = None,
        tables: Sequence[LatencyTable] = (),
        policies: QueuePolicies | None = None,
    ) -> None:
        self.policies = policies
        self._timeouts = Timeouts() if policies is not None and policies.have_timeouts else None
        self.device = device
        self.max_queue_rows = max_queue_rows
        # Rows of parts take no room: their request keeps some.
        self.rows = self.reserved_rows = self._part_rows = 0
        self.table, self._latency_table = sessions.table, sessions.latency_session.table
        self._max_concurrent_batches = sessions.max_concurrent_batches
        self._max_delay_ns = max_delay_ns
        self.objective_ns = None if objective is None else objective.latency_ns
        self._last_arrival_ns: int | None = None
        self._admission = DeadlineAdmission(device, objective)
        self._tables = tables or sessions.tables
        # In order of arrival.
        self._levels: list[_Level[T]] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]
        self._shares = [Shares() for _ in range(PRIORITY_LEVELS)]
        self._turns: list[Turns[Entry[T]]] = [Turns(shares) for shares in self._shares]
        # Created on demand: there may be many entries of few shapes, or few entries of many shapes.
        self._shapes: dict[Hashable, dict[int, Turns[Entry[T]]]] = {}
        # Rows reserved, by priority, but for requests whose parts have begun to wait.
        self._room = [0] * PRIORITY_LEVELS
        # Rows that wait, and those that later requests are predicted to wait for.
        self._backlog = Backlog()
        # Rows that each caller holds: waiting or reserved.
        self._held: dict[str, int] = {}
        self.served = Served()

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __iter__(self) -> Iterator[Entry[T]]:
        """Yield all entries in the order in which they are served. The queue must not change meanwhile."""
        for level, turns in zip(self._levels, self._turns, strict=True):
            if level:
                yield from turns.in_order(self._expected_ns)

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
        caller: str = "",
        room: int | None = None,
    ) -> QueueReservation:
        """Admit a request of `rows` and reserve room for them. Other arguments and errors are those of Engine.reserve.

        `predict` returns the expected ns of the request's own work on an idle device, and of the queue before it; it
        replaces `own_ns` and `ahead_ns`. `row_demand` is the work that each row causes after its batch, for engines
        with a second stage. A `whole` request is one row that shares no batch; its time corrects no predictions. With
        `room`, the request comes in parts, and holds so many rows of the limit, 1 to `rows`, until the last one waits.
        """
        prediction = None
        if deadline_ns is not None or self._admission.sheds:
            # The machine may have been slow, and no batch has shown lately that it still is.
            for table in self._tables:
                table.fade()
            own_ns, ahead_ns = predict() if predict else (self.own_ns(rows), self.ahead_ns(priority, caller, rows))
            prediction = self._admission.check(own_ns, deadline_ns, decoding, ahead_ns)
        room, in_parts = room or rows, bool(room and room < rows)
        self._check_room(room, caller)
        if self.policies is not None:
            self._check_requests(priority, self.policies)
        if decoding is not None:
            room, most = min(room, max(1, self.max_queue_rows // 4)), max(1, self.max_queue_rows // 2)
            if rows > 1 and not self._has_room(caller, room, sum(self._room[:priority]), most):
                held = f"pictures to be decoded hold {sum(self._room)} rows of the queue"
                raise self._overloaded(f"{held}, and with requests of several may hold {most}")
        ahead = min(rows, self.table.largest)
        kept = None if whole else prediction
        reservation = QueueReservation(self, rows, room, ahead, deadline_ns, priority, kept, row_demand, whole, caller)
        reservation.in_parts = in_parts
        self._count_reserved(reservation, room, ahead)
        self._hold(caller, priority, room, ahead)
        return reservation

    def release(self, reservation: QueueReservation, rows: int) -> None:
        """Release the reserved room of `rows`, at most those left."""
        room, ahead = self._release(reservation, rows)
        self._hold(reservation.caller, reservation.priority, -room, -ahead)

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
        caller = entry.caller
        room, ahead = self._release(reservation, entry.rows)
        entry.is_part = reservation.in_parts and reservation.rows > 0
        if entry.is_part and not reservation.has_begun:
            self._room[reservation.priority - 1] -= reservation.room
            reservation.has_begun = True
        if room < entry.rows and not reservation.in_parts:
            try:
                self._check_room(entry.rows, caller, room)
            except Overloaded:
                self._hold(caller, entry.priority, -room, -ahead)
                raise
        entry.found_idle = not self.rows and self.device.idle_lanes() == self.device.lanes
        self._last_arrival_ns = entry.arrival_ns
        if self._timeouts is not None and self.policies is not None:
            entry.max_wait_ns = reservation.max_wait_ns or self.policies.of(entry.priority).timeout_ns
            if entry.max_wait_ns:
                self._timeouts.add(entry)
        self._insert(entry, room, ahead)

    def _insert(self, entry: Entry[T], room: int = 0, ahead: int = 0) -> None:
        """Queue an entry, of which its caller holds `room` and `ahead` rows already."""
        level, caller = entry.priority - 1, entry.caller
        self._levels[level][entry] = None
        self._shares[level].begin(caller)
        self._turns[level].add(entry, caller)
        shape = self._shapes.setdefault(entry.shape, {})
        if (turns := shape.get(entry.priority)) is None:
            turns = shape[entry.priority] = Turns(self._shares[level])
        turns.add(entry, caller)
        self._count_waiting(entry, entry.rows)
        self._hold(caller, entry.priority, entry.room - room, entry.rows - ahead)

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

    def ahead_ns(self, priority: int, caller: str = "", rows: int = 1) -> float:
        """Expected time until all rows that precede a caller's new request of `rows` are done, once a lane is free.

        Rows of other callers precede it at most as far as their turns come before its own.
        """
        shares, largest = self._shares[priority - 1], self.table.largest
        debt = shares.served(caller) - self._turns[priority - 1].least()
        debt_rows = max(0.0, debt) / self.row_ns() if debt > 0 else 0.0
        ahead = math.ceil(self._backlog.before(caller, priority, rows, debt_rows, largest))
        return self.table.drain_ns(ahead) / self._max_concurrent_batches if ahead else 0.0

    def drain_ns(self) -> float:
        """Expected time until all waiting and reserved rows are done."""
        return self.table.drain_ns(self.rows + self.reserved_rows) / self._max_concurrent_batches

    def _remove(self, *entries: Entry[T]) -> None:
        for entry in entries:
            level, caller = entry.priority - 1, entry.caller
            del self._levels[level][entry]
            self._turns[level].remove(entry, caller)
            shape = self._shapes[entry.shape]
            shape[entry.priority].remove(entry, caller)
            if not shape[entry.priority]:
                del shape[entry.priority]
            if not shape:
                del self._shapes[entry.shape]
            self._shares[level].end(caller)
            self._count_waiting(entry, -entry.rows)
            self._hold(caller, entry.priority, -entry.room, -entry.rows)

    def row_ns(self) -> float:
        """Return the expected device time of a row in a full batch."""
        return self.table.cost_ns(self.table.largest) / self.table.largest

    def _expected_ns(self, entry: Entry[T]) -> float:
        """Return the expected device time of an entry in full batches."""
        return entry.rows * entry.weight * self.row_ns()

    def _count_waiting(self, entry: Entry[T], rows: int) -> None:
        """Count rows of an entry that begin to wait, or (negative) no longer do."""
        self.rows += rows
        self._part_rows += rows if entry.is_part else 0

    def _count_reserved(self, reservation: QueueReservation, room: int, ahead: int) -> None:
        """Count rows that are reserved, or (negative) released."""
        self._room[reservation.priority - 1] += 0 if reservation.has_begun else room
        self.reserved_rows += room

    def _release(self, reservation: QueueReservation, rows: int) -> tuple[int, int]:
        """Release `rows` but for what their caller holds; see QueueReservation.release."""
        room, ahead = reservation.release(rows)
        self._count_reserved(reservation, -room, -ahead)
        return room, ahead

    def _hold(self, caller: str, priority: int, rows: int, ahead: int) -> None:
        """Count rows that a caller holds, and those that others wait for; negative numbers are held no longer."""
        if rows:
            if held := self._held.get(caller, 0) + rows:
                self._held[caller] = held
            else:
                del self._held[caller]
        self._backlog.add(caller, priority, ahead)

    def _check_room(self, rows: int, caller: str, released: int = 0) -> None:
        """Raise Overloaded if `rows` find no room, `released` of which their caller still holds."""
        used, limit = self.rows - self._part_rows + self.reserved_rows, self.max_queue_rows
        if not self._has_room(caller, rows, used, limit, released):
            raise self._overloaded(f"the queue holds {used} rows and may hold {limit}")

    def _has_room(self, caller: str, rows: int, used: int, limit: int, released: int = 0) -> bool:
        """Whether `rows` of a caller find room beside `used` rows.

        While there is room, any caller's do. Else those of a caller that holds no more than an equal part then, and one
        row of a caller that holds none: many callers must not close the queue to others.
        """
        if used + rows <= limit:
            return True
        callers = len(self._held) + (caller not in self._held)
        return self._held.get(caller, 0) - released + rows <= max(1, limit // callers)

    def _check_requests(self, priority: int, policies: QueuePolicies) -> None:
        """Raise Overloaded if a priority holds as many requests as it may; pictures being decoded count one each."""
        most = policies.of(priority).max_requests
        held = len(self._levels[priority - 1]) + self._room[priority - 1]
        if most and held >= most:
            raise self._overloaded(f"the queue of priority {priority} holds {held} requests and may hold {most}")

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded.for_ns(message, self.drain_ns())
