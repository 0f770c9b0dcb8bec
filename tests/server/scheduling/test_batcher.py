"""What the batcher decides: which rows, how many, and when, on a clock of the test's own."""

import pytest
from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, Overloaded, ServerError, WaitTooLong
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry

from ..waiting import Clock
from .batch_costs import DEAR, FLAT, LINEAR, SIZES, SLOW
from .queues import batcher_of, push, wait_ns

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
