"""A request holds its bytes until it ends, however it ends, and is counted once."""

import asyncio
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import FailureReason, Overloaded
from resonnx_server.inference.requests import ActiveRequest, MemoryBudget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats, Timing

TIMING = Timing(0, 0, 0, 0, 1)


def _request(budget: MemoryBudget, size: int, stats: ModelStats | None = None) -> ActiveRequest:
    model: Any = SimpleNamespace(stats=stats or Metrics().model("m", 1))
    request = ActiveRequest(model, None, budget, size)  # type: ignore[arg-type]
    request.timing = TIMING
    return request


def test_what_is_over_the_budget_is_refused_until_others_have_ended() -> None:
    budget = MemoryBudget(100)
    with _request(budget, 60):
        with _request(budget, 40):
            with pytest.raises(Overloaded, match="hold 100 of 100 bytes; this one has 1") as refused:
                budget.take(1)
            assert refused.value.retry_after_ms > 0
        with pytest.raises(Overloaded):
            budget.take(41)
        with _request(budget, 40):
            pass
    with _request(budget, 100):
        pass


def test_one_larger_than_the_budget_goes_alone() -> None:
    budget = MemoryBudget(100)
    with _request(budget, 1000), pytest.raises(Overloaded):
        budget.take(1)
    with _request(budget, 1), pytest.raises(Overloaded):
        budget.take(1000)


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError()])
def test_what_fails_gives_back_what_it_held(error: BaseException) -> None:
    budget = MemoryBudget(100)
    with suppress(ValueError, asyncio.CancelledError), _request(budget, 100):
        raise error
    with _request(budget, 100):
        pass


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=60))
def test_no_more_than_the_budget_is_ever_in_flight(requests: list[tuple[int, int]]) -> None:
    """Each request is let in if it fits, and one of those in flight ends after it."""
    budget = MemoryBudget(100)
    held: list[tuple[int, ExitStack]] = []
    for size, ends in requests:
        in_flight = sum(other for other, _ in held)
        stack = ExitStack()
        if in_flight and in_flight + size > 100:
            with pytest.raises(Overloaded):
                stack.enter_context(_request(budget, size))
        else:
            stack.enter_context(_request(budget, size))
            held.append((size, stack))
        if ends < len(held):
            held.pop(ends)[1].close()


def test_each_request_is_counted_once() -> None:
    budget, stats = MemoryBudget(100), Metrics().model("m", 1)
    with _request(budget, 60, stats):
        assert stats.in_progress == 1
        with pytest.raises(Overloaded), _request(budget, 60, stats):
            pytest.fail("over the budget")
        assert (stats.in_progress, stats.failures[FailureReason.REJECTED]) == (1, 1)
    with suppress(ValueError), _request(budget, 60, stats):
        raise ValueError
    assert (stats.in_progress, stats.success.count, stats.failed.count) == (0, 1, 2)
    assert dict(stats.errors) == {"QUEUE_FULL": 1, "INTERNAL": 1}


def test_the_earlier_of_both_deadlines_counts() -> None:
    for caller_ns, timeout_us, expected in ((None, 0, None), (5, 0, 5), (5, 1000, 5)):
        request = _request(MemoryBudget(100), 1)
        request.limit(caller_ns, timeout_us, 3)
        assert (request.deadline_ns, request.priority) == (expected, 3)
    request = _request(MemoryBudget(100), 1)
    request.limit(1 << 62, 1000, 3)
    assert request.deadline_ns is not None
    assert request.deadline_ns < 1 << 62


@pytest.mark.parametrize(
    ("remaining_s", "failure", "reason"),
    [
        (None, FailureReason.CANCELED, "CANCELLED"),
        (10.0, FailureReason.CANCELED, "CANCELLED"),
        # The caller's own clock may end the call a little earlier.
        (0.0005, FailureReason.REJECTED, "DEADLINE_EXCEEDED"),
        (-1.0, FailureReason.REJECTED, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_call_that_grpc_ends_at_its_deadline_is_not_counted_as_cancelled(
    remaining_s: float | None, failure: FailureReason, reason: str
) -> None:
    stats = Metrics().model("m", 1)
    with suppress(asyncio.CancelledError), _request(MemoryBudget(1), 1, stats) as request:
        now_ns = time.monotonic_ns()
        request.limit(None if remaining_s is None else now_ns + int(remaining_s * 1e9), 0, 0)
        raise asyncio.CancelledError
    assert {name for name, count in stats.failures.items() if count} == {failure}
    assert dict(stats.errors) == {reason: 1}
