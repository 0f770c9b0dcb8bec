"""Which frames a rule chooses: the rules as they are written down, of whole videos and one frame after the other."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.preprocessing.clips.sampling import Rule, Sampler, Sampling

ALL = Sampling()
# Times in units of 1/90000 s, the finest that videos usually have.
UNITS = 90_000
RISING = st.lists(st.integers(0, 20 * UNITS), max_size=60).map(sorted)


def _at(rate: int, count: int) -> list[float]:
    return [i / rate for i in range(count)]


def _streamed(sampling: Sampling, times_s: list[float]) -> list[int]:
    sampler = Sampler(sampling)
    return [i for i, time_s in enumerate(times_s) if sampler.takes(time_s)]


@pytest.mark.parametrize(
    ("sampling", "times_s", "expected"),
    [
        (ALL, _at(25, 4), [0, 1, 2, 3]),
        (Sampling(Rule.EVERY, n=3), _at(25, 8), [0, 3, 6]),
        (Sampling(Rule.UNIFORM, n=4), _at(25, 16), [2, 6, 10, 14]),
        (Sampling(Rule.UNIFORM, n=3), _at(25, 10), [1, 5, 8]),
        (Sampling(Rule.UNIFORM, n=8), _at(25, 5), [0, 1, 2, 3, 4]),
        (Sampling(Rule.TIME, frames_per_second=5), _at(25, 12), [0, 5, 10]),
        # 10 of 25: frames at 0, 0.12, 0.2, 0.32, 0.4 s.
        (Sampling(Rule.TIME, frames_per_second=10), _at(25, 11), [0, 3, 5, 8, 10]),
        # A pause: the frame after it is read once, and the next at the next period.
        (Sampling(Rule.TIME, frames_per_second=2), [7.0, 7.1, 9.9, 10.0, 10.4, 10.5], [0, 2, 3, 5]),
        (Sampling(Rule.TIME, frames_per_second=100), _at(25, 3), [0, 1, 2]),
        (ALL, [], []),
        (Sampling(Rule.UNIFORM, n=4), [], []),
    ],
)
def test_frames_are_those_of_the_rule(sampling: Sampling, times_s: list[float], expected: list[int]) -> None:
    assert sampling.indices(times_s) == expected
    if not sampling.needs_count:
        assert _streamed(sampling, times_s) == expected


@given(st.integers(1, 200), st.integers(0, 2000))
def test_uniform_frames_are_spread_evenly(n: int, count: int) -> None:
    chosen = Sampling(Rule.UNIFORM, n=n).indices(range(count))
    assert len(chosen) == len(set(chosen)) == min(n, count) == Sampling(Rule.UNIFORM, n=n).most(count)
    if count > n:
        # The middles of n equal parts.
        for i, frame in enumerate(chosen):
            assert frame <= Fraction(count * (2 * i + 1), 2 * n) < frame + 1


@given(RISING, st.sampled_from([0.5, 1, 2, 3, 10, 12.5, 24, 30, 60]))
def test_by_time_each_period_has_its_first_frame(ticks: list[int], rate: float) -> None:
    sampling = Sampling(Rule.TIME, frames_per_second=rate)
    times_s = [tick / UNITS for tick in ticks]
    # By the rule's words, in exact numbers: of each i, the first frame at or after i/rate.
    last = int(Fraction(ticks[-1] - ticks[0], UNITS) * Fraction(rate)) if ticks else -1
    starts = [i / Fraction(rate) for i in range(last + 1)]
    expected = {
        next(k for k, tick in enumerate(ticks) if Fraction(tick - ticks[0], UNITS) >= start) for start in starts
    }
    assert sampling.indices(times_s) == sorted(expected) == _streamed(sampling, times_s)
    assert len(expected) <= sampling.most(len(ticks))


@given(st.integers(1, 50), RISING)
def test_every_nth_frame_does_not_depend_on_times(n: int, ticks: list[int]) -> None:
    sampling = Sampling(Rule.EVERY, n=n)
    times_s = [tick / UNITS for tick in ticks]
    assert sampling.indices(times_s) == list(range(len(ticks)))[::n] == _streamed(sampling, times_s)
    assert len(sampling.indices(times_s)) == sampling.most(len(ticks))


def test_times_that_run_back_or_are_huge_harm_nothing() -> None:
    sampling = Sampling(Rule.TIME, frames_per_second=1e6)
    assert _streamed(sampling, [0.0, -5.0, 1e18, 3.0, 2e18]) == [0, 2, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": Rule.EVERY}, "n: 0; the rule every needs at least 1"),
        ({"rule": Rule.UNIFORM, "n": -2}, "n: -2; the rule uniform needs at least 1"),
        ({"rule": Rule.TIME}, "frames_per_second: 0.0; it must be above 0 and at most 1000000"),
        ({"rule": Rule.TIME, "frames_per_second": float("nan")}, "frames_per_second: nan"),
        ({"rule": Rule.TIME, "frames_per_second": float("inf")}, "frames_per_second: inf"),
    ],
)
def test_a_rule_without_its_number_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)


def test_frames_that_come_one_after_the_other_have_no_uniform_rule() -> None:
    with pytest.raises(ValueError, match="the rule uniform chooses among all frames of a video"):
        Sampler(Sampling(Rule.UNIFORM, n=4))
