"""The batcher's invariants, for any order of arrivals, cancellations and batches, on a clock of the test's own."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from resonnx_server.errors import Overloaded
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry, QueueReservation

from ...conftest import examples
from .batch_costs import FLAT, SIZES
from .queues import batcher_of, push


class BatcherMachine(RuleBasedStateMachine):
    """Every row is batched, expired or discarded exactly once, in order, within the limits."""

    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), max_queue_rows=40)
        self.now = 0
        self.waiting: dict[int, Entry[int]] = {}
        self.begun: dict[int, int] = {}
        self.reserved: list[tuple[int, int, QueueReservation]] = []
        self.next_id = 0

    @rule(
        target=entries,
        rows=st.integers(1, 40),
        shape=st.sampled_from("ab"),
        patience=st.none() | st.integers(0, 3_000_000),
        priority=st.integers(1, 8),
        caller=st.sampled_from(["", "", "other"]),
    )
    def push(self, rows: int, shape: str, patience: int | None, priority: int, caller: str) -> Entry[int]:
        deadline = None if patience is None else self.now + patience
        entry = Entry(self.next_id, rows, self.now, deadline, shape, priority, caller=caller)
        self.next_id += 1
        if not self._has_room(rows, caller):
            with pytest.raises(Overloaded) as refused:
                push(self.batcher, entry)
            assert 20 <= refused.value.retry_after_ms <= 2000
        else:
            push(self.batcher, entry)
            self.waiting[entry.payload] = entry
        return entry

    def _has_room(self, rows: int, caller: str) -> bool:
        """Room for 40 rows, and for 20 more of a caller that has no more than its part of the 40."""
        held = Counter[str]()
        for entry in self.waiting.values():
            held[entry.caller] += entry.rows
        held[""] += self._room_of(8)
        callers = len({caller, *(name for name, count in held.items() if count)})
        is_light = self.taken_room + rows <= 60 and held[caller] + rows <= 40 // callers
        return self.taken_room + rows <= 40 or is_light

    @property
    def taken_room(self) -> int:
        return sum(e.rows for e in self.waiting.values()) + self._room_of(8)

    def _room_of(self, priority: int) -> int:
        return sum(room for _, room, reservation in self.reserved if reservation.priority <= priority)

    @rule(rows=st.integers(1, 40), priority=st.integers(1, 8), pictures=st.booleans())
    def reserve(self, rows: int, priority: int, pictures: bool) -> None:
        many = pictures and rows > 1
        decoding = Decoding(0, 0) if pictures else None
        if not self._has_room(rows, "") or (many and not self._has_decode_room(min(rows, 10), priority)):
            with pytest.raises(Overloaded) as refused:
                self.batcher.reserve(rows, None, priority, decoding)
            assert 20 <= refused.value.retry_after_ms <= 2000
        else:
            reservation = self.batcher.reserve(rows, None, priority, decoding)
            self.reserved.append((rows, min(rows, 10) if pictures else rows, reservation))

    def _has_decode_room(self, rows: int, priority: int) -> bool:
        used = self._room_of(priority)
        callers = {"", *(entry.caller for entry in self.waiting.values())}
        held = sum(entry.rows for entry in self.waiting.values() if not entry.caller) + self._room_of(8)
        return used + rows <= 20 or (used + rows <= 30 and held + rows <= 20 // len(callers))

    @precondition(lambda self: self.reserved)
    @rule(comes=st.booleans())
    def reservation_ends(self, comes: bool) -> None:
        """Reserved rows find their room, unless they are of pictures for more than a quarter of the queue."""
        rows, room, reservation = self.reserved.pop(0)
        with reservation:
            if not comes:
                return
            entry = Entry(self.next_id, rows, self.now, priority=reservation.priority)
            self.next_id += 1
            if rows == room or self._has_room(rows, ""):
                self.batcher.push(entry, reservation)
                self.waiting[entry.payload] = entry
            else:
                with pytest.raises(Overloaded):
                    self.batcher.push(entry, reservation)

    @rule(entry=consumes(entries))
    def discard(self, entry: Entry[int]) -> None:
        assert self.batcher.discard(entry) == (self.waiting.pop(entry.payload, None) is not None)

    @rule(
        passed=st.integers(0, 2_000_000), limit=st.none() | st.integers(1, 20), budget=st.none() | st.integers(0, 10**7)
    )
    def take(self, passed: int, limit: int | None, budget: int | None) -> None:
        self.now += passed
        batch = self.batcher.take(self.now, limit, budget)
        for entry in batch.expired:
            assert entry.deadline_ns is not None
            assert entry.deadline_ns < self.now + -(-entry.rows // 16) * max(FLAT.values())
            del self.waiting[entry.payload]
        if not batch.entries:
            assert not self.waiting
            return
        in_order = sorted(self.waiting.values(), key=lambda entry: (entry.priority, entry.payload))
        assert batch.entries[0].priority == in_order[0].priority, "the most urgent priority goes first"
        firsts = {entry.caller: entry.payload for entry in reversed(in_order) if entry.priority == in_order[0].priority}
        assert batch.entries[0].payload in firsts.values(), "and there the first of a caller"
        assert len({entry.shape for entry in batch.entries}) == 1
        assert batch.rows <= batch.size <= 16
        assert batch.size in SIZES
        if limit is not None:
            assert batch.rows <= limit
        for caller in ("", "other"):
            theirs = [
                entry.payload for entry in in_order if entry.shape == batch.entries[0].shape and entry.caller == caller
            ]
            taken = [entry.payload for entry in batch.entries if entry.caller == caller]
            assert theirs[: len(taken)] == taken, "nobody is overtaken by an own request of the same shape"
        for entry in batch.entries:
            assert entry.deadline_ns is None or entry.deadline_ns > self.now, "what is late is not run"
            assert entry.rows > 0
            assert entry.start == self.begun.get(entry.payload, 0), "each row once, in order"
            self.begun[entry.payload] = entry.start + entry.rows
            left = self.waiting[entry.payload]
            if entry is left:
                del self.waiting[entry.payload]
            else:
                assert entry is batch.entries[-1], "only what finds no room waits on"
                assert left.start == self.begun[entry.payload]

    @invariant()
    def counts_agree(self) -> None:
        assert self.batcher.rows == sum(entry.rows for entry in self.waiting.values())
        assert self.batcher.rows + self.batcher.reserved_rows == self.taken_room <= 60
        for priority in (1, 4, 8):
            before = sum(min(rows, 16) for rows, _, each in self.reserved if each.priority <= priority)
            before += sum(entry.rows for entry in self.waiting.values() if entry.priority <= priority)
            whole_ns = pytest.approx(before and self.batcher.table.drain_ns(before))
            if any(entry.caller for entry in self.waiting.values()):
                assert self.batcher.ahead_ns(priority) <= self.batcher.table.drain_ns(before) + 1e6
            else:
                assert self.batcher.ahead_ns(priority) == whole_ns
        assert (self.batcher.ready_at_ns() is not None) == bool(self.waiting)
        now, later = self.batcher.ready_at_ns(), self.batcher.ready_at_ns(enough=16)
        assert now is None or (later is not None and later >= now)


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = examples(150, stateful_step_count=40)
