"""Races end within their time, tell whether their result is doubtful, and let callers run at once."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from resonnx_server.repository.choosing import turns
from resonnx_server.repository.choosing.turns import Callers, Effort, Run, race
from resonnx_server.runtime.machine.processor_time import ProcessorTime

from ...waiting import Clock

QUIET = ProcessorTime()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still but for what runs."""
    clock = Clock()
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter_ns=clock, perf_counter=lambda: clock() / 1e9))
    return clock


def _takes(clock: Clock, *ms: float) -> Callable[[], float]:
    """A candidate whose turns take these times, one after the other and again."""
    taken = 0

    def turn() -> float:
        nonlocal taken
        each = ms[taken % len(ms)]
        taken += 1
        clock.ns += int(each * 1e6)
        return math.log(each)

    return turn


def test_a_clear_race_ends_soon(clock: Clock) -> None:
    raced = race([_takes(clock, 15), _takes(clock, 10), _takes(clock, 20)], Effort(2.0), received=lambda: QUIET)
    assert raced.order == (1, 0, 2)
    assert raced.is_settled
    assert not raced.is_doubtful
    assert raced.behind == pytest.approx((1.5, 1.0, 2.0))
    assert clock.ns < 0.5e9


def test_a_close_race_ends_with_its_time_and_is_doubtful(clock: Clock) -> None:
    """The first takes 2 % longer, now more and now less: neither acceptable for sure nor slower."""
    raced = race([_takes(clock, 10.0, 10.4), _takes(clock, 10)], Effort(1.0), received=lambda: QUIET)
    assert 1e9 <= clock.ns <= 1.05e9
    assert raced.order[0] == 0, "it is about as good, and preferred"
    assert not raced.is_settled
    assert raced.is_doubtful


def test_many_turns_settle_a_close_race(clock: Clock) -> None:
    raced = race([_takes(clock, 1.0, 1.04), _takes(clock, 1)], Effort(1.0, most_turns=50), received=lambda: QUIET)
    assert raced.turns == 50
    assert not raced.is_doubtful


def test_long_runs_take_two_turns(clock: Clock) -> None:
    raced = race([_takes(clock, 3000), _takes(clock, 2000)], Effort(2.0), received=lambda: QUIET)
    assert (raced.turns, raced.order, raced.is_doubtful) == (2, (1, 0), True)


@pytest.mark.parametrize(("waited_ms", "is_doubtful"), [(0, False), (5, False), (50, True)])
def test_company_on_the_processors_makes_it_doubtful(clock: Clock, waited_ms: int, is_doubtful: bool) -> None:
    totals = iter([QUIET, ProcessorTime(run_ns=100_000_000, waited_ns=waited_ms * 1_000_000)])
    raced = race([_takes(clock, 1), _takes(clock, 2)], Effort(2.0), received=lambda: next(totals))
    assert raced.is_settled
    assert raced.is_doubtful == is_doubtful


def test_one_that_fails_is_excluded_and_the_others_race_on(clock: Clock) -> None:
    def fails() -> float:
        if clock.ns > 50e6:
            raise RuntimeError("out of memory")
        return _takes(clock, 1)()

    excluded = []
    candidates = [fails, _takes(clock, 20), _takes(clock, 10)]
    raced = race(candidates, Effort(2.0), lambda one, error: excluded.append((one, str(error))), lambda: QUIET)
    assert excluded == [(0, "out of memory")]
    assert raced.order == (2, 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        race([fails, _takes(clock, 20)], Effort(2.0), received=lambda: QUIET)


def test_who_runs_alone_or_not_at_all_has_no_race(clock: Clock) -> None:
    assert race([_takes(clock, 1)], Effort(2.0)).order == (0,)
    assert race([], Effort(2.0)).order == ()
    assert clock.ns == 0


def test_a_row_of_concurrent_batches_takes_their_time_divided_by_all_rows() -> None:
    ran = []
    with Callers(2) as callers:
        score = Run(ran.append, (1, 4), 2).score(callers)
    assert ran == [1, 1, 1, 4, 4], "once without timing, as others have used the caches"
    assert math.isfinite(score)


def test_short_runs_are_repeated(clock: Clock) -> None:
    def run(rows: int) -> None:
        clock.ns += 500_000 * rows

    with Callers(1) as callers:
        first, second = (callers.log_ns_a_row(run, 2) for _ in range(2))
        assert math.exp(first) == math.exp(second) == pytest.approx(500_000)
        before = clock.ns
        callers.log_ns_a_row(run, 2)
    assert clock.ns - before == 2_000_000, "two runs of 1 ms"
