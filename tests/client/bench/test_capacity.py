"""How many replicas a load needs, against simulations of the queue that is computed."""

import math
import random
from bisect import bisect_left
from collections.abc import Mapping

import pytest
from resonnx.bench.batch_queue import BatchQueue
from resonnx.bench.capacity import CannotPlan, Capacity, Replica

# Seconds of a batch by size: mostly a fixed part, mostly a part for each row, and a table with gaps.
_FIXED = {1: 0.010, 2: 0.011, 4: 0.012, 8: 0.014, 16: 0.018}
_LINEAR = {1: 0.003, 2: 0.006, 4: 0.012, 8: 0.024}
_SINGLE = {1: 0.005}


def _simulated_p99_s(times_s: Mapping[int, float], rates: tuple[float, int], calls: int = 150_000) -> float:
    """Return the 99th percentile of a simulated queue.

    Args:
        times_s: Seconds of a batch by size.
        rates: Requests a second of all replicas, and their number: they get the requests in turn.
        calls: Requests of one replica.
    """
    rate, replicas = rates
    chance = random.Random(1)
    arrivals, now = [], 0.0
    for _ in range(calls):
        now += sum(chance.expovariate(rate) for _ in range(replicas))
        arrivals.append(now)
    latencies: list[float] = []
    free, first = 0.0, 0
    while first < calls:
        start = max(free, arrivals[first])
        size = min(max(bisect_left(arrivals, start, first), first + 1) - first, max(times_s))
        free = start + times_s[min(each for each in times_s if each >= size)]
        latencies += [free - arrival for arrival in arrivals[first : first + size]]
        first += size
    latencies.sort()
    return latencies[int(0.99 * calls)]


@pytest.mark.parametrize("times_s", [_FIXED, _LINEAR, _SINGLE], ids=["fixed", "linear", "single"])
@pytest.mark.parametrize("busy", [0.1, 0.5, 0.8])
def test_the_computed_percentile_is_that_of_a_simulated_queue(times_s: dict[int, float], busy: float) -> None:
    rate = busy * max(size / seconds for size, seconds in times_s.items())
    computed = BatchQueue(times_s, rate).percentile_s(0.99)
    assert computed == pytest.approx(_simulated_p99_s(times_s, (rate, 1)), rel=0.1)


def test_the_tail_of_single_requests_is_the_known_one() -> None:
    """Of M/D/1, P(wait > t) approaches (1 - r) / (r exp(q) - 1) exp(-q t / s), where r (exp(q) - 1) = q."""
    busy, seconds, q = 0.9, 0.005, 0.0
    low, high = 1e-6, 1.0
    for _ in range(60):
        q = (low + high) / 2
        low, high = (low, q) if busy * math.expm1(q) > q else (q, high)
    factor = (1 - busy) / (busy * math.exp(q) - 1)
    expected = seconds * (1 + math.log(factor / 0.01) / q)
    assert BatchQueue({1: seconds}, busy / seconds).percentile_s(0.99) == pytest.approx(expected, rel=0.02)


def test_a_queue_that_grows_has_no_percentile() -> None:
    assert BatchQueue(_SINGLE, 250).percentile_s(0.99) == math.inf


@pytest.mark.parametrize(("times_s", "rate", "p99_s"), [(_FIXED, 5000, 0.035), (_LINEAR, 1000, 0.020)])
def test_so_many_replicas_meet_the_objective_and_far_fewer_do_not(
    times_s: dict[int, float], rate: float, p99_s: float
) -> None:
    """In turn, requests come more evenly to a replica than they are planned for."""
    plan = Capacity(Replica(times_s, 1, ""), rate, p99_s)
    assert plan.replicas > 3
    assert plan.expected_p99_s <= p99_s
    assert _simulated_p99_s(times_s, (rate, plan.replicas)) <= p99_s
    assert _simulated_p99_s(times_s, (rate, plan.replicas // 2)) > p99_s


def test_lanes_share_the_load() -> None:
    one, two = (Capacity(Replica(_FIXED, lanes, ""), 5000, 0.035) for lanes in (1, 2))
    assert two.most_rate == pytest.approx(2 * one.most_rate, rel=0.02)
    assert two.replicas == math.ceil(5000 / two.most_rate)


def test_an_objective_below_a_batch_is_refused() -> None:
    with pytest.raises(CannotPlan, match="within 9 ms: one batch takes 10 ms"):
        _ = Capacity(Replica(_FIXED, 1, ""), 1, 0.009).replicas
