"""Limits of callers: a rate as a token bucket, and requests at a time."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.access.caller import Caller
from resonnx_server.access.limits import Limits
from resonnx_server.errors import RateLimited

from ...conftest import examples
from ..waiting import Clock


def _caller(name: str = "key:a", rate: float | None = None, concurrent: int | None = None) -> Caller:
    return Caller(name, frozenset(), rate_per_s=rate, max_concurrent=concurrent)


def _comes(limits: Limits, caller: Caller) -> bool:
    try:
        with limits.begin(caller):
            return True
    except RateLimited:
        return False


def test_a_rate_allows_a_burst_and_then_one_after_another() -> None:
    clock = Clock()
    limits, caller = Limits(clock), _caller(rate=4)
    assert [_comes(limits, caller) for _ in range(5)] == [True] * 4 + [False]
    with (
        pytest.raises(RateLimited, match="may send 4 requests a second; the next in 0") as told,
        limits.begin(caller),
    ):
        pytest.fail("over the rate")
    assert (told.value.reason, told.value.retry_after_ms) == ("RATE_LIMITED", 250)
    clock.ns += 250_000_000
    assert [_comes(limits, caller) for _ in range(2)] == [True, False]
    assert _comes(limits, _caller("key:b", rate=4)), "another caller has a bucket of its own"
    clock.ns += 10**12
    assert [_comes(limits, caller) for _ in range(5)] == [True] * 4 + [False]


@given(st.lists(st.integers(0, 3_000_000_000), max_size=60), st.sampled_from([0.5, 1, 3, 10]))
@examples(100)
def test_no_span_of_time_has_more_than_its_rate_and_one_burst(pauses: list[int], rate: float) -> None:
    clock = Clock()
    limits, caller = Limits(clock), _caller(rate=rate)
    start, came = clock.ns, 0
    for pause in pauses:
        clock.ns += pause
        came += _comes(limits, caller)
        assert came <= max(1.0, rate) + (clock.ns - start) / 1e9 * rate + 1e-6


def test_requests_at_a_time_are_limited_until_one_ends() -> None:
    limits, caller = Limits(Clock()), _caller(concurrent=2)
    with ExitStack() as first:
        first.enter_context(limits.begin(caller))
        with limits.begin(caller):
            assert not _comes(limits, caller)
            assert _comes(limits, _caller("key:b", concurrent=2))
        with pytest.raises(ValueError, match="fails"), limits.begin(caller):
            raise ValueError("fails")
        assert _comes(limits, caller)
    assert limits._in_progress == {}


def test_buckets_of_many_callers_are_bounded() -> None:
    limits = Limits(Clock())
    assert all(_comes(limits, _caller(f"key:{number}", rate=1)) for number in range(3000))
    assert len(limits._paces) <= 1024
