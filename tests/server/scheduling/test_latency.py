"""What is measured at load, what live batches make of it, and what sizes are chosen by it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.scheduling.latency import LastingMean, LatencyTable
from resonnx_server.scheduling.measurement import Measured, far_above, measure, sizes_up_to, smooth

from ..waiting import Clock

SIZES = sizes_up_to(16)


@given(st.integers(1, 64))
def test_warmed_sizes_hold_every_batch(largest: int) -> None:
    table = LatencyTable.of(measure(lambda size: None, sizes_up_to(largest)).costs)
    assert table.largest == largest
    assert all(table.padded_batch_size(rows) >= rows for rows in range(1, largest + 1))


def test_a_moments_standstill_does_not_make_the_machine_slow() -> None:
    table = LatencyTable({1: 1e6, 2: 1.5e6})
    table.record(1, 8_000_000_000)
    assert table.cost_ns(1) < 1.3e6


def test_how_slow_the_machine_is_is_known_while_batches_tell_it_and_then_forgotten() -> None:
    clock = Clock()
    table = LatencyTable({1: 1e6, 2: 1.5e6}, clock=clock)
    for _ in range(120):
        # One batch in 5 s, and somebody who asks more often than that.
        clock.ns += 2_000_000_000
        table.fade()
        clock.ns += 3_000_000_000
        table.fade()
        table.record(1, 4_000_000)
    slow = table.cost_ns(1)
    assert slow == pytest.approx(4e6, rel=0.02)
    assert table.cost_ns(2) > 4e6, "a slow machine is slow for all sizes"
    clock.ns += 9_000_000_000
    table.fade()
    assert table.cost_ns(1) == slow, "a batch told it 9 s ago"
    clock.ns += 4_000_000_000
    table.fade()
    assert 2e6 < table.cost_ns(1) < 0.8 * slow
    clock.ns += 60_000_000_000
    table.fade()
    assert table.cost_ns(2) == pytest.approx(1.5e6, rel=0.01)
    assert table.cost_ns(1) < 1.5e6, "all but what was learnt of the size by itself"


def test_what_is_shown_is_what_would_be_expected_and_showing_it_changes_nothing() -> None:
    clock = Clock()
    table = LatencyTable({1: 1e6}, clock=clock)
    for _ in range(50):
        table.record(1, 4_000_000)
    for _ in range(60):
        clock.ns += 250_000_000
        shown = table.snapshot()[1].expected_ns
    assert table.cost_ns(1) > shown
    table.fade()
    assert table.cost_ns(1) == shown


def test_how_often_is_asked_changes_nothing_of_what_is_forgotten() -> None:
    clock = Clock()
    often, once = (LatencyTable({1: 1e6}, clock=clock) for _ in range(2))
    for table in (often, once):
        for _ in range(50):
            table.record(1, 4_000_000)
    for _ in range(300):
        clock.ns += 50_000_000
        often.fade()
    once.fade()
    assert 1.5e6 < once.cost_ns(1) == pytest.approx(often.cost_ns(1))


def test_a_batch_after_a_long_time_is_compared_with_what_is_known_by_then() -> None:
    clock = Clock()
    table = LatencyTable({1: 1e6}, clock=clock)
    for _ in range(200):
        table.record(1, 4_000_000)
    clock.ns += 3600 * 10**9
    table.record(1, 1_000_000)
    assert table.cost_ns(1) < 1.5e6


def test_one_standstill_does_not_make_times_seem_to_differ_for_good() -> None:
    table = LatencyTable({1: 1e6})
    table.record(1, 60_000_000_000)
    cost = table.snapshot()[1]
    assert cost.spread_ns < 0.2 * cost.expected_ns


@given(st.floats(0, 3))
def test_a_batch_may_be_as_quick_as_batches_often_are_but_not_for_nothing(spread: float) -> None:
    table = LatencyTable({1: 1e6, 2: 1.5e6}, {1: spread, 2: 0.0})
    assert table.quick_ns(1) == pytest.approx(1e6 * max(1 - spread, 0.5))
    assert table.quick_ns(4) == table.time_ns(4) == 3e6


def test_live_batches_move_the_table() -> None:
    table = LatencyTable({1: 100.0, 2: 150.0})
    for _ in range(200):
        table.record(1, 1000)
    assert table.cost_ns(1) == pytest.approx(1000, rel=0.01)
    assert table.cost_ns(2) > 500, "a slow machine is slow for all sizes"


def test_the_table_tells_what_is_expected_and_how_far_off_that_is() -> None:
    table = LatencyTable.of({1: Measured(100.0, 10.0), 2: Measured(200.0, 10.0)})
    assert [(round(cost.expected_ns), round(cost.spread_ns)) for cost in table.snapshot().values()] == [
        (100, 10),
        (200, 10),
    ]
    for turn in range(400):
        table.record(1, 50 if turn % 2 else 150)
    cost = table.snapshot()[1]
    assert cost.expected_ns == pytest.approx(100, rel=0.1)
    assert cost.spread_ns == pytest.approx(50, rel=0.2)


@pytest.mark.parametrize(("larger_ns", "size"), [(1.2e6, 2), (0.99e6, 2), (0.81e6, 2), (0.79e6, 3), (0.1e6, 3)])
def test_rows_are_padded_beyond_the_smallest_size_only_where_that_saves_a_fifth(larger_ns: float, size: int) -> None:
    """Less than that between two sizes is chance; and padding's rows are computed for nobody."""
    table = LatencyTable({1: 0.9e6, 2: 1e6, 3: larger_ns})
    assert table.padded_batch_size(2) == size
    assert table.padded_batch_size(3) == 3


@given(st.lists(st.floats(0.8, 1.25), min_size=8, max_size=8), st.floats(0, 1e7), st.floats(1e4, 1e7))
def test_chance_in_measured_times_costs_little(noise: list[float], start: float, slope: float) -> None:
    """Times that are off by up to 25 %: all that wait go together, and those in a hurry lose little throughput."""
    true = {size: start + slope * size for size in SIZES}
    table = LatencyTable(smooth({size: factor * true[size] for size, factor in zip(SIZES, noise, strict=True)}))
    assert table.best_size(waiting=16) == 16
    chosen = table.best_size(waiting=16, limit_ns=true[16] * 1.5)
    assert chosen / true[chosen] >= 0.7 * max(size / ns for size, ns in true.items())


def test_a_size_that_is_handled_badly_is_left_out() -> None:
    measured = {size: 1e6 + 1e5 * size for size in SIZES} | {12: 2e7}
    assert far_above(measured) == {12}
    table = LatencyTable(smooth(measured))
    assert table.best_size(waiting=12) != 12
    assert table.best_size(waiting=16) == 16


def _of_unit(table: LatencyTable) -> dict[int, float]:
    """Return the expected times as multiples of the measured ones, 1 ms for each size."""
    return {size: cost.expected_ns / 1e6 for size, cost in table.snapshot().items()}


@pytest.mark.parametrize("deviation", [1.0, 1.5])
def test_times_that_vary_for_long_do_not_make_sizes_that_never_run_dear(deviation: float) -> None:
    """As on a busy machine: a soak of 20 minutes ended with waits of minutes for rows of such a size."""
    chance = random.Random(0)
    clock = Clock()
    table = LatencyTable(dict.fromkeys((1, 2, 8), 1e6), clock=clock)
    for _ in range(70_000):
        clock.ns += 15_000_000
        size = 1 if chance.random() < 0.99 else 2
        table.record(size, int(1e6 * chance.lognormvariate(0, deviation)))
    costs = _of_unit(table)
    assert 0.5 < costs[8] / costs[1] < 2
    assert costs[8] < 4, "4 times the mean of a batch"


Run = tuple[int, int, float, float]
# Runs of batches: the size, how many, the time of each as a multiple of the measured one, and the pause before each.
_RUNS = st.lists(
    st.tuples(
        st.sampled_from((1, 2)), st.integers(1, 40), st.sampled_from((0.5, 1.0, 3.0, 50.0, 5000.0)), st.floats(0, 40)
    ),
    min_size=1,
    max_size=8,
)


def _table_after(runs: list[Run], clock: Clock) -> LatencyTable:
    """Return a table that saw starvation (long runs of slow batches), SIGSTOP (one of 5 s), and pauses."""
    table = LatencyTable(dict.fromkeys((1, 2, 8), 1e6), clock=clock)
    for size, batches, slow, pause_s in runs:
        for _ in range(batches):
            clock.ns += int(pause_s * 1e9 / batches)
            table.record(size, int(slow * 1e6))
    return table


@given(_RUNS)
def test_no_size_is_expected_to_be_much_slower_than_batches_say(
    runs: list[Run],
) -> None:
    """The load is what batches showed, however they alternate with standstills and pauses."""
    costs = _of_unit(_table_after(runs, Clock()))
    slowest, quickest = (end([1.0, *(run[2] for run in runs)]) for end in (max, min))
    # Sizes that ran are corrected against each other, which may go too far for one that does not run meanwhile.
    most = (slowest / quickest) ** 1.5
    assert max(costs.values()) <= 1.01 * most
    assert min(costs.values()) >= 0.99 / most


@given(_RUNS)
def test_normal_batches_make_normal_again_what_they_show(runs: list[Run]) -> None:
    """300 batches take 5,000 ** 1.5, the largest excess of the property above, below a tenth: it is a running mean."""
    clock = Clock()
    table = _table_after(runs, clock)
    for _ in range(300):
        clock.ns += 15_000_000
        table.record(1, 1_000_000)
    assert table.cost_ns(1) == pytest.approx(1e6, rel=0.1)


@given(_RUNS)
def test_what_made_a_server_refuse_every_request_is_forgotten(runs: list[Run]) -> None:
    """No batch runs any more, and each refused request looks at the table."""
    clock = Clock()
    table = _table_after(runs, clock)
    until = clock.ns + 360 * 10**9
    while clock.ns < until:
        clock.ns += 1_700_000_000
        table.fade()
    for size in table.sizes:
        assert table.cost_ns(size) == pytest.approx(1e6, rel=0.02)


def test_a_size_that_is_refused_while_others_run_is_as_measured_again() -> None:
    clock = Clock()
    table = LatencyTable({1: 1e6, 8: 1e6}, clock=clock)
    for _ in range(100):
        table.record(8, 100_000_000)
    for _ in range(4000):
        clock.ns += 50_000_000
        table.fade()
        table.record(1, 1_000_000)
    assert table.cost_ns(8) == pytest.approx(table.cost_ns(1), rel=0.6)


def test_a_mean_outlives_a_standstill_and_forgets() -> None:
    clock = Clock()
    mean = LastingMean(10_000, clock)
    mean.learn(5e9)
    assert mean.value <= 11_500
    for _ in range(200):
        mean.learn(1e6)
    assert mean.value == pytest.approx(1e6, rel=0.01)
    clock.ns += 60 * 10**9
    assert mean.value == pytest.approx(1e6, rel=0.01)
    clock.ns += 300 * 10**9
    assert mean.value == pytest.approx(10_000, rel=0.01)
