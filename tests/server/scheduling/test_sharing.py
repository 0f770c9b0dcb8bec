"""Sharing between callers: who is served next, and what that costs others."""

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.sharing import Shares, Turns

from ...conftest import examples
from .callers import LARGEST, LINEAR, ROW_NS, flood, push, queue_of_callers, rows_of
from .queues import batcher_of


def test_a_flood_leaves_half_of_each_batch_to_another_caller() -> None:
    batcher = queue_of_callers()
    flood(batcher, "flood", 1000)
    flood(batcher, "good", 16)
    assert [rows_of(batcher.take(0)) for _ in range(2)] == [{"flood": 8, "good": 8}] * 2
    assert rows_of(batcher.take(10**9)) == {"flood": 16}


@pytest.mark.parametrize("rows", [1, 5, 16, 1000])
def test_a_single_row_is_in_the_second_batch_at_the_latest(rows: int) -> None:
    batcher = queue_of_callers(100_000)
    flood(batcher, "flood", 50, rows)
    assert sum(rows_of(batcher.take(0)).values()) == LARGEST
    push(batcher, "good")
    batches = [rows_of(batcher.take(0)) for _ in range(2)]
    assert any("good" in batch for batch in batches)
    assert [sum(batch.values()) for batch in batches if "good" in batch] == [2], "others' rows at most double its time"


@pytest.mark.parametrize(("costs", "most"), [(LINEAR, 4 + 2), (dict.fromkeys(LINEAR, ROW_NS), 1 + 1)])
def test_two_requests_of_1024_rows_let_single_rows_pass(costs: dict[int, float], most: int) -> None:
    """Another caller's row waits for a short batch and for its own; where larger ones cost no more, they are full."""
    batcher, now = queue_of_callers(100_000, costs), 0
    flood(batcher, "flood", 2, 1024)
    took, rows = [], []
    for _ in range(60):
        # A row that comes as soon as a batch has begun.
        begin, running = now, batcher.take(now)
        row = push(batcher, "good")
        while row not in running.entries:
            now += int(costs[running.size])
            running = batcher.take(now)
            rows.append(running.rows)
        now += int(costs[running.size])
        took.append((now - begin) / ROW_NS)
    assert max(took[1:]) <= most
    assert costs is LINEAR or set(rows) == {LARGEST}


def test_a_caller_with_much_work_has_full_batches_once_the_others_are_gone() -> None:
    batcher = queue_of_callers(100_000)
    flood(batcher, "flood", 1000)
    batcher.take(0)
    push(batcher, "good")
    assert [batcher.take(0).rows for _ in range(2)] == [2, 4]
    assert batcher.take(200_000_000).rows == 4
    assert batcher.take(300_000_000).rows == LARGEST


def test_many_small_requests_and_few_large_ones_have_the_same_time() -> None:
    batcher = queue_of_callers(100_000)
    flood(batcher, "large", 20, 16)
    flood(batcher, "small", 320)
    served: Counter[str] = Counter()
    for _ in range(20):
        served.update(rows_of(batcher.take(0)))
    assert abs(served["large"] - served["small"]) <= LARGEST


def test_a_caller_that_always_comes_back_has_no_more_than_its_share() -> None:
    """A large request at a time, whose caller has nothing waiting whenever it is answered."""
    batcher = queue_of_callers(100_000)
    flood(batcher, "flood", 1000)
    served: Counter[str] = Counter()
    waiting = push(batcher, "returns", 16)
    for _ in range(40):
        batch = batcher.take(0)
        served.update(rows_of(batch))
        if waiting in batch.entries:
            waiting = push(batcher, "returns", 16)
    assert abs(served["flood"] - served["returns"]) <= 2 * LARGEST


def test_time_without_work_gives_no_right_to_later_time() -> None:
    """Who comes counts from the beginning of the batch that runs: that is half of a batch for each of two."""
    batcher = queue_of_callers(100_000)
    flood(batcher, "busy", 1000)
    for _ in range(30):
        batcher.take(0)
    flood(batcher, "late", 1000)
    served: Counter[str] = Counter()
    for _ in range(10):
        served.update(rows_of(batcher.take(0)))
    assert served["busy"] >= 5 * LARGEST - LARGEST // 2 - 1


def test_an_endless_series_of_new_callers_starves_none() -> None:
    batcher = queue_of_callers(100_000)
    flood(batcher, "old", 1000)
    served = 0
    for number in range(400):
        push(batcher, f"new {number}")
        served += rows_of(batcher.take(0, 1)).get("old", 0)
    assert served >= 20, "each new caller has its share, and they become more"


def test_batches_of_own_shapes_cost_what_they_take() -> None:
    """Ten requests of ten shapes take ten batches, whose time counts as much as that of ten full ones."""
    costs = {size: 1e6 + 1e4 * size for size in sizes_up_to(LARGEST)}
    batcher = batcher_of(LatencyTable(costs), 10_000)
    for number in range(100):
        push(batcher, "shapes", shape=f"{number}")
    flood(batcher, "alike", 1000)
    batches = [rows_of(batcher.take(0)) for _ in range(20)]
    assert 9 <= sum("alike" in batch for batch in batches) <= 12


def test_callers_share_within_a_priority_only() -> None:
    batcher = queue_of_callers()
    flood(batcher, "flood", 20, priority=3)
    push(batcher, "good", priority=4)
    assert [rows_of(batcher.take(0)) for _ in range(3)] == [{"flood": 16}, {"flood": 4}, {"good": 1}]


REQUESTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 40) | st.just(1), st.sampled_from("xy")), min_size=2, max_size=60
)


@given(REQUESTS, st.lists(st.integers(1, 20), min_size=1, max_size=10))
@examples(150)
def test_callers_that_wait_are_served_alike_and_each_in_its_order(
    requests: list[tuple[str, int, str]], limits: list[int]
) -> None:
    """Between any two moments at which two callers wait, the rows of one exceed the other's by one item of each."""
    batcher = queue_of_callers(100_000)
    largest: Counter[str] = Counter()
    for number, (caller, rows, _) in enumerate(requests):
        push(batcher, caller, rows, payload=number)
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
        served.update(rows_of(batch))
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
    batcher = queue_of_callers(100_000)
    for who, count, _ in requests:
        push(batcher, who, count)
    for _ in range(taken):
        batcher.take(0)
    whole_ns = batcher.ahead_ns(8) + batcher.own_ns(rows)
    predicted_ns = batcher.ahead_ns(4, caller, rows) + batcher.own_ns(rows)
    assert predicted_ns <= whole_ns + ROW_NS
    push(batcher, caller, rows, payload="new")
    took_ns, left = 0.0, rows
    while left:
        batch = batcher.take(0)
        took_ns += LINEAR[batch.size]
        left -= sum(entry.rows for entry in batch.entries if entry.payload == "new")
    assert took_ns <= predicted_ns + LARGEST * ROW_NS


def test_a_light_caller_waits_for_its_turns_only() -> None:
    batcher = queue_of_callers(100_000)
    flood(batcher, "flood", 1000)
    assert batcher.ahead_ns(4, "flood") == pytest.approx(1000 * ROW_NS)
    assert batcher.ahead_ns(4, "good") <= 3 * ROW_NS
    assert batcher.ahead_ns(4, "good", 100) <= 102 * ROW_NS
    flood(batcher, "good", 10)
    assert batcher.ahead_ns(4, "good") <= 22 * ROW_NS
    assert batcher.ahead_ns(5, "good") == pytest.approx(1010 * ROW_NS), "all that is more urgent precedes it"
    assert batcher.ahead_ns(3, "good") == 0


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


def test_the_first_of_all_that_wait_is_in_the_batch_though_a_tie_puts_another_first_among_its_shape() -> None:
    """Otherwise a caller's requests would be served before its own earlier ones."""
    batcher = queue_of_callers()
    gone = push(batcher, "ann", shape="b")
    push(batcher, "bob", shape="b")
    push(batcher, "bob", LARGEST, shape="a")
    first = push(batcher, "ann", shape="a")
    batcher.discard(gone)
    assert next(iter(batcher)) is first
    assert batcher.take(0).entries[0] is first
