"""The arithmetic of `resonnx bench`: percentiles, arrivals, searches, bounds; and loads on a clock of the test."""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx.bench.load import Plan, closed_loop, open_loop
from resonnx.bench.schedule import poisson
from resonnx.bench.search import RateSearch
from resonnx.bench.summary import Result, Tally, percentile, summarise

times = st.lists(st.floats(0, 1e6), max_size=200).map(sorted)
shares = st.integers(1, 1000).map(lambda n: n / 1000)


@given(times, shares, st.integers(0, 50))
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, share, endless) -> None:
    found = percentile(values, share, endless)
    everything = [*values, *[math.inf] * endless]
    enough = [v for v in everything if sum(x <= v for x in everything) >= share * len(everything) - 1e-9]
    assert found == (min(enough) if enough and min(enough) < math.inf else None)


@given(st.floats(0.5, 2000), st.floats(0.1, 5), st.integers(0, 2**32))
def test_poisson_arrivals_ascend_within_the_time_and_repeat_by_seed(rate, seconds, seed) -> None:
    arrivals = list(poisson(rate, seconds, seed))
    assert arrivals == sorted(arrivals) == list(poisson(rate, seconds, seed))
    assert all(0 < due < seconds for due in arrivals)
    # Seven standard deviations of a Poisson count.
    assert abs(len(arrivals) - rate * seconds) <= 7 * math.sqrt(rate * seconds) + 7


@given(st.floats(1, 1000), st.floats(1, 1000))
def test_search_ends_close_below_what_can_be_had(first, limit) -> None:
    search, tried = RateSearch(first), []
    while (rate := search.propose()) is not None:
        tried.append(rate)
        search.record(rate <= limit)
    assert len(tried) <= 14
    if search.best is None:
        assert min(tried) > limit
    else:
        assert search.best <= limit
        # Fourteen runs are not enough from very far away.
        assert len(tried) == 14 or search.best >= limit / 1.04


def test_an_answer_after_the_deadline_is_late_whatever_its_status() -> None:
    tally = Tally(deadline_s=0.1)
    for code, latency_s in [("OK", 0.05), ("OK", 0.2), ("DEADLINE_EXCEEDED", 0.1), ("RESOURCE_EXHAUSTED", 0.001)]:
        tally.add(code, latency_s)
    tally.add("INTERNAL", 0.01)
    result = summarise(tally, 2.0, concurrency=1)
    assert (result.ok, result.late, result.refused, result.errors) == (1, 2, 1, {"INTERNAL": 1})
    assert (result.per_s, result.p99_ms, result.p99_all_ms, result.refused_p99_ms) == (0.5, 50.0, None, 1.0)


@pytest.mark.parametrize(
    ("codes", "kept"),
    [([], True), (["OK"], True), (["RESOURCE_EXHAUSTED"], False), (["INTERNAL"], False), (["NOT_SENT"], False)],
)
def test_a_bound_is_broken_by_whoever_is_not_answered_but_not_by_nobody(codes, kept) -> None:
    tally = Tally()
    for code in codes:
        tally.add(code, 0.05)
    result = summarise(tally, 1.0, rate=1.0)
    assert result.keeps(50.0) is kept
    assert result.keeps(49.0) is (not codes)


class _NeverWaits(selectors.DefaultSelector):
    """Time passes at once when an event loop has nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


@pytest.fixture
def time_of(monkeypatch) -> Callable[..., object]:
    """Run a coroutine that is given its clock; the loads' time and the event loop's is that one's."""

    def run(main: Callable[[_NeverWaits], Awaitable[object]]) -> object:
        clock = _NeverWaits()
        loop = asyncio.SelectorEventLoop(clock)
        monkeypatch.setattr(loop, "time", lambda: clock.now_s)
        monkeypatch.setattr("resonnx.bench.load.perf_counter", loop.time)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main(clock))

    return run


def test_an_open_loop_does_not_hide_a_stall(time_of) -> None:
    """A server that stands still for half a second: callers who came meanwhile waited, and it shows."""

    async def both(clock: _NeverWaits) -> tuple[Result, Result]:
        async def call(number: int, left_s: float | None) -> tuple[str, str]:
            await asyncio.sleep(0.005)
            await asyncio.sleep(began + 0.5 - clock.now_s)
            return "OK", ""

        began = clock.now_s
        closed = await closed_loop(call, 1, Plan(0, 0.8), Tally())
        began = clock.now_s
        return closed, await open_loop(call, 200, Plan(0, 0.8), Tally())

    closed, opened = time_of(both)
    assert closed.p90_ms == pytest.approx(5)
    assert closed.max_ms == pytest.approx(500)
    assert 300 < opened.p90_ms < opened.max_ms < 500


def test_an_open_loop_charges_its_own_delay_to_the_answers(time_of) -> None:
    async def late(clock: _NeverWaits) -> Result:
        async def call(number: int, left_s: float | None) -> tuple[str, str]:
            # Holds the loop: the generator cannot keep up with its schedule.
            clock.now_s += 0.01
            return "OK", ""

        return await open_loop(call, 300, Plan(0, 0.5), Tally())

    result = time_of(late)
    assert result.p99_ms >= result.lag_p99_ms > 100
