"""Sharing between callers: who is served next, how much room each has, and what precedes a new request."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import Overloaded
from resonnx_server.scheduling.batcher import Batch, Batcher
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.queue import Entry
from resonnx_server.scheduling.sharing import Shares, Turns

from ...conftest import examples
from .queues import batcher_of

LARGEST = 16
ROW_NS = 1e6
LINEAR = {size: ROW_NS * size for size in sizes_up_to(LARGEST)}


def _queue(rows: int = 10_000, costs: dict[int, float] = LINEAR, clock: Callable[[], int] = lambda: 0) -> Batcher[Any]:
    return batcher_of(LatencyTable(costs), rows, clock=clock)


def _push(
    batcher: Batcher[Any], caller: str, rows: int = 1, priority: int = 4, shape: str = "", payload: object = None
) -> Entry[Any]:
    entry = Entry(payload, rows, 0, shape=shape, priority=priority, caller=caller)
    batcher.push(entry, batcher.reserve(rows, None, priority, caller=caller))
    return entry


def _flood(batcher: Batcher[Any], caller: str, count: int, rows: int = 1, priority: int = 4) -> None:
    for _ in range(count):
        _push(batcher, caller, rows, priority)


def _rows(batch: Batch[Any]) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for entry in batch.entries:
        rows[entry.caller] += entry.rows
    return rows


def test_a_flood_leaves_half_of_each_batch_to_another_caller() -> None:
    batcher = _queue()
    _flood(batcher, "flood", 1000)
    _flood(batcher, "good", 16)
    assert [_rows(batcher.take(0)) for _ in range(2)] == [{"flood": 8, "good": 8}] * 2
    assert _rows(batcher.take(10**9)) == {"flood": 16}


@pytest.mark.parametrize("rows", [1, 5, 16, 1000])
def test_a_single_row_is_in_the_second_batch_at_the_latest(rows: int) -> None:
    batcher = _queue(100_000)
    _flood(batcher, "flood", 50, rows)
    assert sum(_rows(batcher.take(0)).values()) == LARGEST
    _push(batcher, "good")
    batches = [_rows(batcher.take(0)) for _ in range(2)]
    assert any("good" in batch for batch in batches)
    assert [sum(batch.values()) for batch in batches if "good" in batch] == [2], "others' rows at most double its time"


@pytest.mark.parametrize(("costs", "most"), [(LINEAR, 4 + 2), (dict.fromkeys(LINEAR, ROW_NS), 1 + 1)])
def test_two_requests_of_1024_rows_let_single_rows_pass(costs: dict[int, float], most: int) -> None:
    """Another caller's row waits for a short batch and for its own; where larger ones cost no more, they are full."""
    batcher, now = _queue(100_000, costs), 0
    _flood(batcher, "flood", 2, 1024)
    took, rows = [], []
    for _ in range(60):
        # A row that comes as soon as a batch has begun.
        begin, running = now, batcher.take(now)
        row = _push(batcher, "good")
        while row not in running.entries:
            now += int(costs[running.size])
            running = batcher.take(now)
            rows.append(running.rows)
        now += int(costs[running.size])
        took.append((now - begin) / ROW_NS)
    assert max(took[1:]) <= most
    assert costs is LINEAR or set(rows) == {LARGEST}


def test_a_caller_with_much_work_has_full_batches_once_the_others_are_gone() -> None:
    batcher = _queue(100_000)
    _flood(batcher, "flood", 1000)
    batcher.take(0)
    _push(batcher, "good")
    assert [batcher.take(0).rows for _ in range(2)] == [2, 4]
    assert batcher.take(200_000_000).rows == 4
    assert batcher.take(300_000_000).rows == LARGEST


def test_many_small_requests_and_few_large_ones_have_the_same_time() -> None:
    batcher = _queue(100_000)
    _flood(batcher, "large", 20, 16)
    _flood(batcher, "small", 320)
    served: Counter[str] = Counter()
    for _ in range(20):
        served.update(_rows(batcher.take(0)))
    assert abs(served["large"] - served["small"]) <= LARGEST


def test_a_caller_that_always_comes_back_has_no_more_than_its_share() -> None:
    """A large request at a time, whose caller has nothing waiting whenever it is answered."""
    batcher = _queue(100_000)
    _flood(batcher, "flood", 1000)
    served: Counter[str] = Counter()
    waiting = _push(batcher, "returns", 16)
    for _ in range(40):
        batch = batcher.take(0)
        served.update(_rows(batch))
        if waiting in batch.entries:
            waiting = _push(batcher, "returns", 16)
    assert abs(served["flood"] - served["returns"]) <= 2 * LARGEST


def test_time_without_work_gives_no_right_to_later_time() -> None:
    """Who comes counts from the beginning of the batch that runs: that is half of a batch for each of two."""
    batcher = _queue(100_000)
    _flood(batcher, "busy", 1000)
    for _ in range(30):
        batcher.take(0)
    _flood(batcher, "late", 1000)
    served: Counter[str] = Counter()
    for _ in range(10):
        served.update(_rows(batcher.take(0)))
    assert served["busy"] >= 5 * LARGEST - LARGEST // 2 - 1


def test_an_endless_series_of_new_callers_starves_none() -> None:
    batcher = _queue(100_000)
    _flood(batcher, "old", 1000)
    served = 0
    for number in range(400):
        _push(batcher, f"new {number}")
        served += _rows(batcher.take(0, 1)).get("old", 0)
    assert served >= 20, "each new caller has its share, and they become more"


def test_batches_of_own_shapes_cost_what_they_take() -> None:
    """Ten requests of ten shapes take ten batches, whose time counts as much as that of ten full ones."""
    costs = {size: 1e6 + 1e4 * size for size in sizes_up_to(LARGEST)}
    batcher = batcher_of(LatencyTable(costs), 10_000)
    for number in range(100):
        _push(batcher, "shapes", shape=f"{number}")
    _flood(batcher, "alike", 1000)
    batches = [_rows(batcher.take(0)) for _ in range(20)]
    assert 9 <= sum("alike" in batch for batch in batches) <= 12


def test_callers_share_within_a_priority_only() -> None:
    batcher = _queue()
    _flood(batcher, "flood", 20, priority=3)
    _push(batcher, "good", priority=4)
    assert [_rows(batcher.take(0)) for _ in range(3)] == [{"flood": 16}, {"flood": 4}, {"good": 1}]


REQUESTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 40) | st.just(1), st.sampled_from("xy")), min_size=2, max_size=60
)


@given(REQUESTS, st.lists(st.integers(1, 20), min_size=1, max_size=10))
@examples(150)
def test_callers_that_wait_are_served_alike_and_each_in_its_order(
    requests: list[tuple[str, int, str]], limits: list[int]
) -> None:
    """Between any two moments at which two callers wait, the rows of one exceed the other's by one item of each."""
    batcher = _queue(100_000)
    largest: Counter[str] = Counter()
    for number, (caller, rows, _) in enumerate(requests):
        _push(batcher, caller, rows, payload=number)
        largest[caller] = max(largest[caller], min(rows, LARGEST))
    served: Counter[str] = Counter()
    last: dict[str, tuple[int, int]] = {}
    # For each pair, the least and the greatest difference so far.
    apart: dict[tuple[str, str], list[int]] = {pair: [0, 0] for pair in combinations(sorted(largest), 2)}
    turn = 0
    while batcher.rows:
        batch = batcher.take(0, limits[turn % len(limits)])
        turn += 1
        for entry in batch.entries:
            assert last.get(entry.caller, (-1, 0)) < (entry.payload, entry.start), "first come, first served"
            last[entry.caller] = (entry.payload, entry.start)
        served.update(_rows(batch))
        waiting = {entry.caller for entry in batcher}
        for (one, other), seen in list(apart.items()):
            if not {one, other} <= waiting:
                del apart[one, other]
                continue
            seen[:] = min(seen[0], served[one] - served[other]), max(seen[1], served[one] - served[other])
            assert seen[1] - seen[0] <= largest[one] + largest[other]
    assert served == Counter({caller: sum(rows for who, rows, _ in requests if who == caller) for caller in largest})


@given(REQUESTS, st.integers(0, 4), st.sampled_from("abcd"), st.integers(1, 40))
@examples(150)
def test_no_request_takes_longer_than_predicted(
    requests: list[tuple[str, int, str]], taken: int, caller: str, rows: int
) -> None:
    """If no work comes after it, a new request ends within the prediction, and one batch whose rest is of others."""
    batcher = _queue(100_000)
    for who, count, _ in requests:
        _push(batcher, who, count)
    for _ in range(taken):
        batcher.take(0)
    whole_ns = batcher.ahead_ns(8) + batcher.own_ns(rows)
    predicted_ns = batcher.ahead_ns(4, caller, rows) + batcher.own_ns(rows)
    assert predicted_ns <= whole_ns + ROW_NS
    _push(batcher, caller, rows, payload="new")
    took_ns, left = 0.0, rows
    while left:
        batch = batcher.take(0)
        took_ns += LINEAR[batch.size]
        left -= sum(entry.rows for entry in batch.entries if entry.payload == "new")
    assert took_ns <= predicted_ns + LARGEST * ROW_NS


def test_a_light_caller_waits_for_its_turns_only() -> None:
    batcher = _queue(100_000)
    _flood(batcher, "flood", 1000)
    assert batcher.ahead_ns(4, "flood") == pytest.approx(1000 * ROW_NS)
    assert batcher.ahead_ns(4, "good") <= 3 * ROW_NS
    assert batcher.ahead_ns(4, "good", 100) <= 102 * ROW_NS
    _flood(batcher, "good", 10)
    assert batcher.ahead_ns(4, "good") <= 22 * ROW_NS
    assert batcher.ahead_ns(5, "good") == pytest.approx(1010 * ROW_NS), "all that is more urgent precedes it"
    assert batcher.ahead_ns(3, "good") == 0


def test_a_flood_fills_the_queue_and_others_still_find_room() -> None:
    batcher = _queue(40)
    _flood(batcher, "flood", 40)
    with pytest.raises(Overloaded, match="holds 40 rows and may hold 40"):
        _push(batcher, "flood")
    _flood(batcher, "good", 20)
    with pytest.raises(Overloaded):
        _push(batcher, "good")
    _flood(batcher, "third", 13)
    with pytest.raises(Overloaded, match="holds 73 rows"):
        _push(batcher, "third")
    for number in range(3):
        batcher.take(number * 10**9)

    _flood(batcher, "third", 15)
    assert batcher.rows == 40
    with pytest.raises(Overloaded):
        _push(batcher, "flood")


def test_many_callers_do_not_close_a_full_queue_to_another() -> None:
    """More than it has rows."""
    batcher = _queue(40)
    for number in range(200):
        _push(batcher, f"{number}")
    with pytest.raises(Overloaded):
        _push(batcher, "7")
    with pytest.raises(Overloaded):
        _push(batcher, "good", 2)
    _push(batcher, "good")


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30) | st.just(1), st.booleans()), max_size=150),
)
@examples(100)
def test_who_holds_less_than_an_equal_part_is_always_admitted(limit: int, steps: list[tuple[int, int, bool]]) -> None:
    """Each step is a request of a caller; before some of them, waiting rows are served."""
    batcher = _queue(limit)
    for number, rows, served in steps:
        if served:
            batcher.take(0)
        caller, held = f"{number}", Counter(batcher._held)
        callers = len(held | {caller: 1})
        is_due = held[caller] + rows <= max(1, limit // callers)
        try:
            _push(batcher, caller, rows)
        except Overloaded:
            assert not is_due
            assert held.total() + rows > limit
        assert batcher.rows <= sum(max(1, limit // place) for place in range(1, len(batcher._held) + 1))


def test_admitted_rows_find_their_room_whoever_comes_meanwhile() -> None:
    batcher = _queue(40)
    reservation = batcher.reserve(30, caller="first")
    _flood(batcher, "second", 20)
    _flood(batcher, "third", 10)
    for _ in range(30):
        batcher.push(Entry(None, 1, 0, caller="first"), reservation)
    assert (batcher.rows, batcher.reserved_rows) == (60, 0)


def test_one_caller_of_many_pictures_keeps_none_from_another() -> None:
    batcher, pictures = _queue(40), Decoding(0, 0)
    for _ in range(2):
        batcher.reserve(10, decoding=pictures, caller="flood")
    with pytest.raises(Overloaded, match="to be decoded"):
        batcher.reserve(10, decoding=pictures, caller="flood")
    batcher.reserve(10, decoding=pictures, caller="good")


def test_callers_that_come_and_go_leave_nothing_behind() -> None:
    batcher = _queue()
    _flood(batcher, "flood", 500)
    for number in range(2000):
        entry = _push(batcher, f"{number}")
        if number % 4:
            assert batcher.discard(entry)
        elif number % 8:
            batcher.take(0, 2)
    turns, shares = batcher._turns[3], batcher._shares[3]
    waiting = len({entry.caller for entry in batcher})
    assert len(turns._heap) <= 2 * waiting + 65
    assert len(shares._served) <= waiting + 65
    batcher.clear()
    assert not any((shares._served, shares._waiting, shares._ahead, turns._heap, turns._lines, batcher._held))
    assert (batcher._backlog.total, batcher._room) == ([0] * 8, [0] * 8)
    assert not any(batcher._backlog._of)


def test_equal_callers_go_in_the_order_in_which_they_came() -> None:
    shares = Shares()
    turns: Turns[str] = Turns(shares)
    for caller in "cab":
        for number in range(2):
            shares.begin(caller)
            turns.add(f"{caller}{number}", caller)
    assert list(turns.in_order(lambda _: 1.0)) == ["c0", "a0", "b0", "c1", "a1", "b1"]
    assert turns.least() == 0.0
    shares.charge("c", 1.5, 1.0)
    assert list(turns.in_order(lambda _: 1.0)) == ["a0", "b0", "a1", "b1", "c0", "c1"]
    assert math.isinf(Turns(shares).least())


def test_device_time_is_counted_by_key_and_never_by_address() -> None:
    batcher = _queue()
    for caller in ("key:alice", "cert:bob", "ip:203.0.113.7", "unix"):
        _flood(batcher, caller, 4)
    batcher.take(0)
    assert batcher.served.ns == {"other": 8 * ROW_NS, "key:alice": 4 * ROW_NS, "cert:bob": 4 * ROW_NS}
    for number in range(1000):
        batcher.served.add(f"cert:{number}", 1.0)
    assert len(batcher.served.ns) == 256


def test_the_first_of_all_that_wait_is_in_the_batch_though_a_tie_puts_another_first_among_its_shape() -> None:
    """Otherwise a caller's requests would be served before its own earlier ones."""
    batcher = _queue()
    gone = _push(batcher, "ann", shape="b")
    _push(batcher, "bob", shape="b")
    _push(batcher, "bob", LARGEST, shape="a")
    first = _push(batcher, "ann", shape="a")
    batcher.discard(gone)
    assert next(iter(batcher)) is first
    assert batcher.take(0).entries[0] is first
