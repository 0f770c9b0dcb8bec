"""The queue against a plain list that says the same slowly, and what many who wait cost those who come and go."""

import time
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, WaitTooLong
from resonnx_server.scheduling.batcher import Batch, Batcher
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.queue import Entry

from ...conftest import examples
from .queues import batcher_of, push, wait_ns

COSTS = {size: 1e6 + 5e4 * size for size in sizes_up_to(8)}
PATIENCE_NS = 1_000_000_000
MOST_LATE = 64


class PlainList:
    """What the batcher promises, of all that waits in one list. Knows nothing of queues within queues."""

    def __init__(self, objective_ns: int | None, max_delay_ns: int, instances: int) -> None:
        self.table = LatencyTable(COSTS)
        self.objective_ns, self.max_delay_ns, self.instances = objective_ns, max_delay_ns, instances
        self.waiting: list[Entry[int]] = []

    @property
    def in_order(self) -> list[Entry[int]]:
        return sorted(self.waiting, key=lambda entry: (entry.priority, entry.payload))

    def rows(self, entries: list[Entry[int]]) -> int:
        return sum(entry.rows for entry in entries)

    def due(self, entry: Entry[int]) -> int:
        due = entry.arrival_ns + (self.objective_ns or PATIENCE_NS)
        return due if entry.deadline_ns is None else min(due, entry.deadline_ns)

    def first_batch(self, entries: list[Entry[int]]) -> list[Entry[int]]:
        """Those, from the first on, whose rows fill a batch."""
        return [entry for i, entry in enumerate(entries) if self.rows(entries[:i]) < self.table.largest]

    def wait_ns(self, rows: int, priority: int) -> float:
        ahead = self.rows([entry for entry in self.waiting if entry.priority <= priority])
        own = min(self.table.time_ns(rows), self.table.time_ns(-(-rows // self.instances)))
        return own + (self.table.drain_ns(ahead) / self.instances if ahead else 0)

    def due_ns(self) -> int | None:
        first = min((entry.priority for entry in self.waiting), default=None)
        return min(
            map(self.due, self.first_batch([entry for entry in self.in_order if entry.priority == first])), default=None
        )

    def ready_at_ns(self, enough: int) -> int | None:
        if not self.waiting:
            return None
        at, rows = min(entry.arrival_ns for entry in self.waiting), self.rows(self.waiting)
        if rows < enough:
            must = min(map(self.due, self.waiting)) - self.table.cost_ns(self.table.padded_batch_size(enough))
            return max(at, int(must))
        if not self.max_delay_ns or rows >= self.table.largest:
            return at
        wanted = [self.due(entry) for entry in self.waiting if self.objective_ns or entry.deadline_ns is not None]
        return max(
            at, int(min([at + self.max_delay_ns, *(due - self.table.cost_ns(self.table.largest) for due in wanted)]))
        )

    def late(self, entry: Entry[int], now_ns: int) -> bool:
        quickest = self.table.time_ns(-(-entry.rows // self.instances))
        return entry.deadline_ns is not None and now_ns + quickest > entry.deadline_ns

    def take(self, now_ns: int, limit: int | None) -> tuple[list[tuple[int, int, int]], list[int]]:
        """Return payload, first row and rows of each that is in the batch, and the payloads of the late."""
        order = self.in_order
        is_late = [self.late(entry, now_ns) for entry in order]
        first = is_late.index(False) if False in is_late else len(order)
        expired, rest = order[:first][:MOST_LATE], order[first:]
        alike: list[Entry[int]] = []
        if rest and len(expired) < MOST_LATE:
            late: list[Entry[int]] = []
            for entry in (entry for entry in rest if entry.shape == rest[0].shape):
                if self.rows(alike) >= self.table.largest or len(late) == MOST_LATE:
                    break
                (late if self.late(entry, now_ns) else alike).append(entry)
            expired += late
        for entry in expired:
            self.waiting.remove(entry)
        if not alike:
            return [], [entry.payload for entry in expired]
        wanted = [self.due(entry) for entry in alike if self.objective_ns or entry.deadline_ns is not None]
        rows = min(self.rows(alike), self.table.largest if limit is None else limit)
        left = min(wanted) - now_ns if wanted else float("inf")
        room = min(rows, self.table.best_size(min(self.rows(alike), limit or 10**9), left))
        taken = []
        for entry in alike:
            rows = min(room, entry.rows)
            if not rows:
                break
            room -= rows
            taken.append((entry.payload, entry.start, rows))
            entry.start, entry.rows = entry.start + rows, entry.rows - rows
            if not entry.rows:
                self.waiting.remove(entry)
        return taken, [entry.payload for entry in expired]


class AgainstPlainList(RuleBasedStateMachine):
    """Whatever comes, goes and is taken, both say the same of it."""

    objective_ns: int | None = None
    max_delay_ns = 0
    instances = 1

    def __init__(self) -> None:
        super().__init__()
        self.plain = PlainList(self.objective_ns, self.max_delay_ns, self.instances)
        self.batcher: Batcher[int] = batcher_of(
            LatencyTable(COSTS), 10**9, self.max_delay_ns, self.objective_ns, self.instances
        )
        self.entries: dict[int, Entry[int]] = {}
        self.now = 0
        self.count = 0

    @rule(
        many=st.integers(1, 3) | st.integers(1, 150),
        rows=st.integers(1, 20),
        shape=st.sampled_from("abcd"),
        patience=st.none() | st.integers(-1, 9_000_000),
        priority=st.integers(1, 8),
    )
    def push(self, many: int, rows: int, shape: str, patience: int | None, priority: int) -> None:
        deadline = None if patience is None else self.now + patience
        new = range(self.count, self.count + many)
        self.count += many
        ours, theirs = ([Entry(number, rows, self.now, deadline, shape, priority) for number in new] for _ in range(2))
        push(self.batcher, *ours)
        self.plain.waiting += theirs
        self.entries |= {entry.payload: entry for entry in ours}

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.count - 1))
        was_there = [entry for entry in self.plain.waiting if entry.payload == number]
        assert self.batcher.discard(self.entries[number]) == bool(was_there)
        self.plain.waiting = [entry for entry in self.plain.waiting if entry.payload != number]

    @rule(passed=st.integers(0, 4_000_000), limit=st.none() | st.integers(1, 12))
    def take(self, passed: int, limit: int | None) -> None:
        self.now += passed
        batch: Batch[int] = self.batcher.take(self.now, limit)
        taken, expired = self.plain.take(self.now, limit)
        assert [(entry.payload, entry.start, entry.rows) for entry in batch.entries] == taken
        assert [entry.payload for entry in batch.expired] == expired
        for entry in batch.expired:
            assert entry.deadline_ns is not None
            told = self.batcher.lateness(entry, self.now)
            assert isinstance(told, DeadlineUnreachable | WaitTooLong) == (entry.deadline_ns > self.now)
            assert ("passed" in told.message) == (entry.deadline_ns <= self.now)

    @rule()
    def clear(self) -> None:
        assert [entry.payload for entry in self.batcher.clear()] == [entry.payload for entry in self.plain.in_order]
        self.plain.waiting = []

    @invariant()
    def both_say_the_same(self) -> None:
        batcher, plain = self.batcher, self.plain
        assert [entry.payload for entry in batcher] == [entry.payload for entry in plain.in_order]
        assert (len(batcher), batcher.rows) == (len(plain.waiting), plain.rows(plain.waiting))
        assert batcher.due_ns() == plain.due_ns()
        for enough in (1, 8):
            assert batcher.ready_at_ns(enough) == plain.ready_at_ns(enough)
        for priority in (1, 3, 8):
            assert wait_ns(batcher, 5, priority) == pytest.approx(plain.wait_ns(5, priority))


class WithObjective(AgainstPlainList):
    """As above, of a model that has an objective, waits for company and runs two batches at once."""

    objective_ns = 5_000_000
    max_delay_ns = 2_000_000
    instances = 2


TestAgainstPlainList = AgainstPlainList.TestCase
TestAgainstPlainList.settings = examples(100, stateful_step_count=30)
TestWithObjective = WithObjective.TestCase
TestWithObjective.settings = examples(100, stateful_step_count=30)


MANY = 100_000


def _waiting(count: int, **fields: object) -> Batcher[int]:
    batcher: Batcher[int] = batcher_of(LatencyTable(COSTS), 10 * MANY)
    for number in range(count):
        push(batcher, Entry(number, 1, number, **fields))
    return batcher


def _best_ns(call: Callable[[], object], times: int = 30) -> int:
    """The shortest of some calls: whatever else the machine does makes them longer only."""
    took = []
    for _ in range(times):
        start = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - start)
    return min(took)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda batcher: wait_ns(batcher, 1, 8), id="predict"),
        pytest.param(lambda batcher: batcher.ready_at_ns(), id="ready"),
        pytest.param(lambda batcher: batcher.due_ns(), id="due"),
        pytest.param(lambda batcher: batcher.take(10**9), id="take"),
        pytest.param(lambda batcher: batcher.take(10**16), id="expire"),
        pytest.param(lambda batcher: push(batcher, Entry(-1, 1, 0, 10**15)), id="push"),
    ],
)
def test_who_comes_pays_nothing_for_how_many_wait(call: Callable[[Batcher[int]], object]) -> None:
    """Among 64 times as many, a call takes less than 16 times as long: far from what a walk over all would."""
    few, many = _waiting(MANY // 64, deadline_ns=10**15), _waiting(MANY, deadline_ns=10**15)
    # Takes leave gaps where they took, which must cost nothing, either.
    for batcher, takes in ((few, 50), (many, 3000)):
        for _ in range(takes):
            batcher.take(10**9)
    # Fewer calls than would leave none of the few.
    assert _best_ns(lambda: call(many), 15) < 16 * _best_ns(lambda: call(few), 15)


def test_entries_of_other_shapes_are_not_walked_over() -> None:
    def mixed(others: int) -> Batcher[int]:
        batcher: Batcher[int] = batcher_of(LatencyTable(COSTS), 10 * MANY)
        push(batcher, *(Entry(number, 1, 0, shape=("another", number % 50)) for number in range(others)))
        push(batcher, *(Entry(number, 1, 0, shape="last") for number in range(1000)))
        return batcher

    def take(batcher: Batcher[int]) -> None:
        push(batcher, Entry(-1, 1, 0, shape="last", priority=1))
        batch = batcher.take(0)
        assert (len(batch.entries), {entry.shape for entry in batch.entries}) == (8, {"last"})

    few, many = mixed(MANY // 64), mixed(MANY)
    assert _best_ns(lambda: take(many), 20) < 16 * _best_ns(lambda: take(few), 20)


def test_many_late_are_handed_out_in_parts_and_none_of_them_runs() -> None:
    batcher = _waiting(1000, deadline_ns=10**9)
    push(batcher, Entry(-1, 1, 0))
    expired, batches = [], 0
    while not (batch := batcher.take(2 * 10**9)).entries:
        assert 0 < len(batch.expired) <= MOST_LATE
        expired += [entry.payload for entry in batch.expired]
        batches += 1
    assert [entry.payload for entry in batch.entries] == [-1]
    assert sorted(expired + [entry.payload for entry in batch.expired]) == list(range(1000))
    assert batches < 20
    assert all(isinstance(batcher.lateness(entry, 2 * 10**9), DeadlineExceeded) for entry in batch.expired)
