"""A request holds its bytes until it ends, however it ends, and is counted once."""

import asyncio
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.errors import FailureReason, MemorySpent
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats, Timing

TIMING = Timing(0, 0, 0, 0, 1)


def _request(budget: Budget, size: int, stats: ModelStats | None = None, caller: str = "a") -> ActiveRequest:
    model: Any = SimpleNamespace(stats=stats or Metrics().model("m", 1), lease=Lease())
    request = ActiveRequest(model, None, budget, size, caller)  # type: ignore[arg-type]
    request.timing = TIMING
    return request


def test_what_is_over_the_budget_is_refused_until_others_have_ended() -> None:
    budget = Budget(800)
    with _request(budget, 600), pytest.raises(MemorySpent), _request(budget, 101, caller="b"):
        pytest.fail("over the budget")
    with _request(budget, 101, caller="b"):
        pass


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError()])
def test_what_fails_gives_back_what_it_held(error: BaseException) -> None:
    budget = Budget(100)
    with suppress(ValueError, asyncio.CancelledError), _request(budget, 80):
        raise error
    assert (budget.used, budget.callers) == (0, 0)


def test_pixels_are_charged_before_they_are_decoded() -> None:
    budget = Budget(8000)
    pictures: Any = SimpleNamespace(count=9, pixels=lambda *_: pytest.fail("decoded"))
    with _request(budget, 6000) as request:
        request.model.pictures = SimpleNamespace(recipe=SimpleNamespace(width=8, height=8))
        with pytest.raises(MemorySpent, match="this one needs 1728 more"):
            asyncio.run(request.pixels(pictures))
    assert budget.used == 0


def test_each_request_is_counted_once() -> None:
    budget, stats = Budget(100), Metrics().model("m", 1)
    with _request(budget, 60, stats):
        assert stats.in_progress == 1
        with pytest.raises(MemorySpent), _request(budget, 60, stats):
            pytest.fail("over the budget")
        assert (stats.in_progress, stats.failures[FailureReason.REJECTED]) == (1, 1)
    with suppress(ValueError), _request(budget, 60, stats):
        raise ValueError
    assert (stats.in_progress, stats.success.count, stats.failed.count) == (0, 1, 2)
    assert dict(stats.errors) == {"MEMORY_SPENT": 1, "INTERNAL": 1}


def test_the_earlier_of_both_deadlines_counts() -> None:
    for caller_ns, timeout_us, expected in ((None, 0, None), (5, 0, 5), (5, 1000, 5)):
        request = _request(Budget(100), 1)
        request.limit(caller_ns, timeout_us, 3)
        assert (request.deadline_ns, request.priority) == (expected, 3)
    request = _request(Budget(100), 1)
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
    ends: list[tuple[Any, ...]] = []
    span: Any = SimpleNamespace(end=lambda *end: ends.append(end))
    with suppress(asyncio.CancelledError), _request(Budget(100), 1, stats) as request:
        now_ns = time.monotonic_ns()
        request.limit(None if remaining_s is None else now_ns + int(remaining_s * 1e9), 0, 0)
        request.span = span
        raise asyncio.CancelledError
    # Its span says the same.
    assert ends[0][4] == {"error.type": reason}
    assert {name for name, count in stats.failures.items() if count} == {failure}
    assert dict(stats.errors) == {reason: 1}
