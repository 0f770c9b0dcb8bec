"""The batcher's invariants, for any order of arrivals, cancellations and batches, on a clock of the test's own."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, Overloaded, ServerError, WaitTooLong
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.queue import Entry, QueueReservation

from ...conftest import examples
from ..waiting import Clock
from .queues import batcher_of, push, wait_ns

SIZES = sizes_up_to(16)
FLAT = {size: 1e6 + 1e4 * size for size in SIZES}
# 1 ms and 50 or 75 µs more a row: rows are worth batching, and a batch costs time that shows.
DEAR = {1: 1.05e6, 2: 1.15e6, 3: 1.22e6, 4: 1.3e6, 6: 1.5e6, 8: 1.6e6, 12: 1.9e6, 16: 2.3e6}
LINEAR = {size: 1e6 * size for size in SIZES}
SLOW = {size: 2e7 * size for size in SIZES}


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


PICTURES = Decoding(0, 0)


def test_others_keep_half_of_the_queue_while_requests_of_many_pictures_are_decoded() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), max_queue_rows=40)
    many = [batcher.reserve(10, decoding=PICTURES) for _ in range(2)]
    for priority in (4, 8):
        with pytest.raises(Overloaded, match="hold 20 rows of the queue, and with requests of several may hold 20"):
            batcher.reserve(2, None, priority, PICTURES)
    many.append(batcher.reserve(2, None, 3, PICTURES))
    batcher.reserve(1, None, 8, PICTURES)
    push(batcher, Entry(0, 17, 0))
    with pytest.raises(Overloaded, match="the queue holds 40 rows and may hold 40"):
        batcher.reserve(1, decoding=PICTURES)
    for reservation in many:
        with reservation:
            pass
    assert batcher.reserved_rows == 1


def test_a_request_of_more_than_a_quarter_of_the_queue_holds_that_while_it_is_decoded() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), max_queue_rows=40)
    ahead_ns = batcher.table.drain_ns(16)
    with batcher.reserve(40, None, 8, PICTURES) as large:
        assert (batcher.reserved_rows, batcher.ahead_ns(8), batcher.ahead_ns(7)) == (10, ahead_ns, 0)
        push(batcher, Entry(0, 9, 0), Entry(1, 15, 0, priority=1))
        for number in range(10):
            batcher.push(Entry(2 + number, 1, 0, priority=8), large)
        assert (batcher.reserved_rows, batcher.rows, batcher.ahead_ns(7)) == (0, 34, batcher.table.drain_ns(24))
        assert batcher.ahead_ns(8) == batcher.table.drain_ns(34 + 6)
        with pytest.raises(Overloaded):
            batcher.push(Entry(12, 30, 0, priority=8), large)
    assert (batcher.reserved_rows, batcher.ahead_ns(8)) == (0, batcher.table.drain_ns(34))


def _batcher(costs: dict[int, float], rows: int, **options: int) -> Batcher[int]:
    batcher: Batcher[int] = batcher_of(LatencyTable(costs), 1000, **options)
    push(batcher, *(Entry(i, 1, arrival_ns=100 + i) for i in range(rows)))
    return batcher


@pytest.mark.parametrize(
    ("rows", "row_ms", "instances", "hint_ms"),
    [
        (1, 1, 1, 20),
        (30, 1, 1, 30),
        (30, 5, 1, 150),
        (30, 5, 3, 50),
        (900, 5, 1, 2000),
    ],
)
def test_a_full_queue_sends_away_until_it_should_be_worked_off(
    rows: int, row_ms: int, instances: int, hint_ms: int
) -> None:
    table = LatencyTable({1: row_ms * 1e6})
    batcher: Batcher[int] = batcher_of(table, rows, max_concurrent_batches=instances)
    push(batcher, Entry(0, rows, 0))
    for decoding in (None, PICTURES):
        with pytest.raises(Overloaded) as told:
            batcher.reserve(1, decoding=decoding)
        assert told.value.retry_after_ms == hint_ms
    waits_for_decoding: Batcher[int] = batcher_of(table, rows, max_concurrent_batches=instances)
    waits_for_decoding.reserve(rows)
    with pytest.raises(Overloaded) as told:
        waits_for_decoding.reserve(1)
    assert told.value.retry_after_ms == hint_ms


def test_where_larger_batches_are_cheaper_all_waiting_go_together() -> None:
    batch = _batcher(FLAT, 13).take(200)
    assert (batch.rows, batch.size) == (13, 16), "padding to 16 is cheaper than 12 and a second batch"


def test_where_padding_costs_nothing_is_padded() -> None:
    batch = _batcher(LINEAR, 13).take(200)
    assert batch.rows == batch.size


def test_idle_device_gets_work_at_once_unless_delay_was_asked_for() -> None:
    assert _batcher(FLAT, 1).ready_at_ns() == 100
    assert _batcher(FLAT, 3, max_delay_ns=50).ready_at_ns() == 150
    assert _batcher(FLAT, 16, max_delay_ns=50).ready_at_ns() == 100, "a full batch waits for nobody"


def test_rows_wait_for_each_other_where_that_is_short_or_pays() -> None:
    dear, slow = LatencyTable(DEAR), LatencyTable(SLOW)
    assert (dear.min_efficient_batch, dear.preferred_batch_size) == (16, 16)
    assert (slow.min_efficient_batch, slow.preferred_batch_size) == (1, 1), "a row takes 20 ms in any batch"
    assert LatencyTable(LINEAR).preferred_batch_size == 16, "a row takes 1 ms"
    assert LatencyTable({size: 1e8 + 1e5 * size for size in SIZES}).preferred_batch_size > 12, "costs nearly the same"


def test_a_batch_starts_that_pays_or_must() -> None:
    assert _batcher(DEAR, 16).ready_at_ns(enough=16) == 100
    few = _batcher(DEAR, 11)
    assert few.ready_at_ns(enough=16) == 100 + 1_000_000_000 - 2_300_000, "patience, less what 16 rows take"
    push(few, Entry(99, 1, arrival_ns=200, deadline_ns=5_000_000, priority=1))
    assert few.ready_at_ns(enough=16) == 2_700_000


def test_the_batch_is_as_large_as_its_most_urgent_member_allows() -> None:
    def size(deadline_ns: int | None, objective_ns: int | None = None) -> int:
        batcher: Batcher[int] = batcher_of(LatencyTable(DEAR), 1000, objective_ns=objective_ns)
        push(batcher, Entry(0, 1, 0, deadline_ns), *(Entry(i, 1, 0) for i in range(1, 16)))
        return batcher.take(now_ns=0).size

    assert size(None) == 16
    assert size(2_400_000) == 16
    assert size(1_500_000) == 6, "costs 1.5 ms; 8 rows would take 1.6"
    assert size(1_200_000) == 2
    assert size(None, objective_ns=1_600_000) == 8
    assert size(1_200_000, objective_ns=1_600_000) == 2
    assert size(None, objective_ns=1_000) == 16, "an objective that is lost already does not cost throughput"


def test_a_full_batch_is_no_smaller_for_those_behind_it() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(DEAR), 1000)
    push(batcher, *(Entry(i, 1, 0) for i in range(16)), Entry(16, 1, 0, deadline_ns=1_500_000))
    batch = batcher.take(now_ns=0)
    assert [entry.payload for entry in batch.entries] == list(range(16))


def test_what_cannot_be_met_any_more_is_not_run() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(DEAR), 1000)
    push(batcher, Entry(0, 1, 0, deadline_ns=1_000_000), Entry(1, 1, 0, deadline_ns=1_200_000))
    batch = batcher.take(now_ns=50_000)
    assert [entry.payload for entry in batch.expired] == [0], "it takes 1.05 ms alone"
    assert [entry.payload for entry in batch.entries] == [1]


@pytest.mark.parametrize(
    ("arrival_ns", "left_ns", "found_idle", "kind"),
    [
        (0, 1, False, WaitTooLong),
        (0, 1, True, DeadlineUnreachable),
        (999_000_000, 1, False, WaitTooLong),
        (999_000_001, 1, False, DeadlineUnreachable),
        (0, 0, False, DeadlineExceeded),
        (0, -1, True, DeadlineExceeded),
    ],
)
def test_who_is_late_is_told_why(arrival_ns: int, left_ns: int, found_idle: bool, kind: type[ServerError]) -> None:
    """Only what has passed has passed; and who would have been in time without a wait for others, may come again."""
    batcher: Batcher[int] = batcher_of(LatencyTable({1: 1e6}), 1000)
    late = Entry(0, 1, arrival_ns, deadline_ns=10**9)
    push(batcher, late, *(Entry(i, 1, arrival_ns) for i in range(300)))
    assert late.found_idle
    late.found_idle = found_idle
    (entry,) = batcher.take(10**9 - left_ns).expired
    told = batcher.lateness(entry, 10**9 - left_ns)
    assert type(told) is kind
    assert ("passed" in told.message) == (left_ns <= 0)
    if isinstance(told, WaitTooLong):
        assert told.retry_after_ms == 299, "one is being run"


def test_who_may_still_make_it_is_tried() -> None:
    """Batches of one differ by three tenths: some take no more than seven."""
    table = LatencyTable({1: 1e6}, {1: 0.3})
    batcher: Batcher[str] = batcher_of(table, 1000)
    push(batcher, Entry("hardly", 1, 0, deadline_ns=710_000), Entry("never", 1, 0, deadline_ns=690_000, priority=1))
    batch = batcher.take(0)
    assert [[entry.payload for entry in entries] for entries in (batch.expired, batch.entries)] == [
        ["never"],
        ["hardly"],
    ]


def test_where_batching_gains_nothing_those_in_a_hurry_do_not_wait_for_each_other() -> None:
    def size(deadline_ns: int | None) -> int:
        batcher: Batcher[int] = batcher_of(LatencyTable(SLOW), 1000)
        push(batcher, *(Entry(i, 1, 0, deadline_ns) for i in range(8)))
        return batcher.take(now_ns=0).size

    assert (size(None), size(60_000_000_000)) == (8, 8), "a deadline that is far away hurries nobody"
    assert size(1_280_000_000) == 4, "20 ms a row, and a sixteenth of the time"
    assert size(310_000_000) == 1


def test_a_batch_is_short_where_others_wait_for_the_device() -> None:
    batcher = _batcher(DEAR, 16)
    assert batcher.take(0, budget_ns=1_300_000).size == 4


def test_priorities_first_and_the_wait_that_they_mean() -> None:
    batcher: Batcher[str] = batcher_of(LatencyTable(LINEAR), 1000)
    push(batcher, Entry("later", 1, 0, priority=8), Entry("now", 1, 5, priority=1), Entry("plain", 1, 3))
    assert wait_ns(batcher, 1, priority=1) == 2e6
    assert wait_ns(batcher, 1, priority=4) == 3e6
    assert wait_ns(batcher, 1, priority=8) == 4e6
    taken = [batcher.take(10, limit=1).entries[0].payload for _ in range(3)]
    assert taken == ["now", "plain", "later"]


def test_due_is_the_earliest_of_deadline_objective_and_patience() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), 1000, objective_ns=50)
    push(batcher, Entry(0, 1, 100, deadline_ns=120))
    assert batcher.due_ns() == 120
    push(batcher, Entry(1, 1, 60, priority=1))
    assert batcher.due_ns() == 110
    plain = _batcher(FLAT, 1)
    assert plain.due_ns() == 100 + 1_000_000_000


def test_a_model_that_nobody_asks_keeps_no_room_from_others() -> None:
    clock = Clock()
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), objective_ns=50, clock=clock)
    assert batcher.live_objective_ns() is None
    push(batcher, Entry(0, 1, arrival_ns=100))
    clock.ns = 100 + 10**10
    assert batcher.live_objective_ns() == 50
    clock.ns += 1
    assert batcher.live_objective_ns() is None


def test_a_size_that_is_handled_badly_is_not_run() -> None:
    batch = _batcher({**DEAR, 12: 2e7}, 12).take(200)
    assert (batch.rows, batch.size) == (12, 16)
    table = LatencyTable({1: 1e6, 2: 1.1e6})
    assert table.padded_batch_size(1) == 1
    for _ in range(2000):
        table.record(1, 3_000_000)
        table.record(2, 1_100_000)
    assert table.padded_batch_size(1) == 2, "it follows what batches take"


def test_rows_of_a_request_fill_batches() -> None:
    batcher: Batcher[str] = batcher_of(LatencyTable(FLAT), 1000)
    push(batcher, *(Entry(name, 9, 0) for name in "abcd"))
    batches = [batcher.take(10) for _ in range(3)]
    assert [[(e.payload, e.start, e.rows) for e in batch.entries] for batch in batches] == [
        [("a", 0, 9), ("b", 0, 7)],
        [("b", 7, 2), ("c", 0, 9), ("d", 0, 5)],
        [("d", 5, 4)],
    ]


def test_the_rest_of_a_request_is_forgotten_with_it() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), 1000)
    entry = Entry(0, 30, 0)
    push(batcher, entry, Entry(1, 1, 0))
    assert batcher.take(10).rows == 16
    assert batcher.discard(entry)
    assert (batcher.rows, batcher.take(10).rows) == (1, 1)


def test_many_rows_are_expected_to_take_long() -> None:
    one: Batcher[int] = batcher_of(LatencyTable(LINEAR), 2000)
    two: Batcher[int] = batcher_of(LatencyTable(LINEAR), 2000, max_concurrent_batches=2)
    assert (wait_ns(one, 1000, 4), wait_ns(two, 1000, 4)) == (1e9, 5e8)
    push(one, Entry(0, 1000, 0, deadline_ns=900_000_000))
    assert [entry.payload for entry in one.take(0).expired] == [0]
    push(two, Entry(0, 1000, 0, deadline_ns=900_000_000))
    assert not two.take(0).expired
    assert wait_ns(two, 16, 4) == 984e6 / 2 + 8e6


def test_nobody_is_late_for_waiting_for_company() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(LINEAR), 1000, max_delay_ns=200_000_000)
    push(batcher, Entry(0, 1, 0), Entry(1, 1, 0, deadline_ns=100_000_000))
    assert batcher.ready_at_ns() == 84_000_000, "16 rows could come, and take 16 ms"
    push(batcher, Entry(2, 1, 0, deadline_ns=10_000_000))
    assert batcher.ready_at_ns() == 0
    assert _batcher(LINEAR, 1, max_delay_ns=2_000_000_000).ready_at_ns() == 100 + 2_000_000_000, "nobody is in a hurry"


def test_those_behind_lend_no_urgency_to_those_before() -> None:
    batcher: Batcher[int] = batcher_of(LatencyTable(FLAT), 1000)
    push(batcher, Entry(0, 1, arrival_ns=0, priority=8), Entry(1, 1, arrival_ns=10**12, priority=1))
    assert batcher.due_ns() == 10**12 + 10**9
    push(batcher, Entry(2, 1, arrival_ns=10**12, deadline_ns=10**12 + 5, priority=1))
    assert batcher.due_ns() == 10**12 + 5, "not the first, but in the same batch"
