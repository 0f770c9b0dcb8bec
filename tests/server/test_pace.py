"""Paces: no span of time has more events than so many at once and so many a second, and none waits without need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.pace import Pace, Paces

from ..conftest import examples

SECOND_NS = 1_000_000_000
# Rates and bursts with and without whole intervals.
PACES = st.sampled_from([(0.5, 1), (1, 1), (2.5, 2.5), (3, 3), (10, 10), (25, 60), (200, 50)])
TIMES = st.lists(st.integers(0, 3 * SECOND_NS) | st.integers(0, 20_000_000), max_size=60)


@pytest.mark.parametrize("start_ns", [0, 10**18])
@pytest.mark.parametrize(("per_s", "at_once"), [(3, 3), (10, 10), (0.1, 1), (25, 60)])
def test_a_burst_comes_at_once_and_the_next_an_interval_later(per_s: float, at_once: int, start_ns: int) -> None:
    pace = Pace(per_s, at_once)
    assert {pace.delay_ns(start_ns) for _ in range(at_once)} == {0}
    assert pace.delay_ns(start_ns) == round(SECOND_NS / per_s)
    assert pace.delay_ns(start_ns) == 2 * round(SECOND_NS / per_s)


@given(TIMES, PACES)
@examples(100)
def test_events_after_their_delay_keep_the_pace(pauses: list[int], kind: tuple[float, float]) -> None:
    (per_s, at_once), now = kind, 0
    pace, begun = Pace(per_s, at_once), list[int]()
    for pause in pauses:
        now += pause
        begun.append(now + pace.delay_ns(now))
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], 1):
            assert last <= at_once + (end - start) * per_s / 1e9 + 1e-6


@given(TIMES, PACES)
@examples(100)
def test_refused_events_are_not_counted(pauses: list[int], kind: tuple[float, float]) -> None:
    """A flood beyond the pace takes nothing from what is admitted: as a bucket of tokens has it."""
    (per_s, at_once), now = kind, 0
    pace, tokens = Pace(per_s, at_once), at_once
    for pause in pauses:
        now += pause
        tokens = min(at_once, tokens + pause * per_s / 1e9)
        for _ in range(3):
            delay_ns = pace.delay_ns(now, most_ns=0)
            if abs(tokens - 1) > 1e-6:
                assert (delay_ns == 0) == (tokens >= 1)
                if delay_ns:
                    assert delay_ns == pytest.approx((1 - tokens) / per_s * 1e9, abs=100)
            tokens -= delay_ns == 0


def test_a_longest_wait_refuses_what_would_wait_longer() -> None:
    pace = Pace(10, 1)
    delays = [pace.delay_ns(0, most_ns=200_000_000) for _ in range(5)]
    assert delays == [0, 100_000_000, 200_000_000, 300_000_000, 300_000_000]


def test_another_pace_counts_what_came_before() -> None:
    paces = Paces[str]()
    assert [paces.of("a", 1, 1).delay_ns(0, 0) for _ in range(2)] == [0, SECOND_NS]
    assert paces.of("a", 4, 1).delay_ns(0, 0) == SECOND_NS // 4
    assert paces.of("b", 4, 1).delay_ns(0, 0) == 0, "another source"


def test_the_source_that_is_unused_for_longest_is_forgotten() -> None:
    paces = Paces[int]()
    first = paces.of(0, 1, 1)
    for number in range(1, 1024):
        paces.of(number, 1, 1)
    assert paces.of(0, 1, 1) is first
    assert len(paces) == 1024
    paces.of(1024, 1, 1)
    assert len(paces) == 1024
    assert paces.of(0, 1, 1) is first
    assert paces.of(1, 1, 1).delay_ns(0) == 0
