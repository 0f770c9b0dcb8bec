"""The retry budget and the decision to try again, under any history."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx import Overloaded, ResonnxError
from resonnx._transport.retry import Attempts, RetryBudget


class Shed(grpc.RpcError):
    """A call that ended with a status, perhaps with a pushback."""

    def __init__(self, pushback: str | None, code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED) -> None:
        self._pushback = pushback
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "shed"

    def trailing_metadata(self):
        return () if self._pushback is None else (("grpc-retry-pushback-ms", self._pushback),)


class Clock:
    """Time that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def empty_budget() -> RetryBudget:
    budget = RetryBudget()
    for _ in range(RetryBudget.BURST):
        assert budget.withdraw()
    return budget


@given(history=st.lists(st.sampled_from(["call", "retry"]), max_size=400))
def test_retries_stay_within_a_tenth_of_calls(history: list[str]) -> None:
    budget = RetryBudget()
    calls = granted = 0
    for event in history:
        if event == "call":
            calls += 1
            budget.deposit()
        else:
            granted += budget.withdraw()
        assert granted <= RetryBudget.BURST + calls / RetryBudget.CALLS_PER_RETRY


@given(calls=st.integers(0, 500))
def test_an_empty_budget_gives_one_retry_for_ten_calls_and_saves_only_a_burst(calls: int) -> None:
    budget = empty_budget()
    for _ in range(calls):
        budget.deposit()
    granted = 0
    while budget.withdraw():
        granted += 1
    assert granted == min(calls // 10, RetryBudget.BURST)


@given(timeout_s=st.floats(0.01, 100), spent_s=st.floats(0, 200), pushback_ms=st.integers(0, 100_000))
def test_a_pause_is_what_the_server_asked_and_ends_before_the_deadline(
    timeout_s: float, spent_s: float, pushback_ms: int
) -> None:
    clock = Clock()
    attempts = Attempts(timeout_s, RetryBudget(), clock)
    clock.now += spent_s
    left_s = attempts.remaining_s()
    if pushback_ms / 1e3 < left_s:
        assert attempts.pause_s(Shed(str(pushback_ms))) == pushback_ms / 1e3
    else:
        with pytest.raises(Overloaded):
            attempts.pause_s(Shed(str(pushback_ms)))


@pytest.mark.parametrize("pushback", [None, "-1", "nonsense"])
def test_no_invitation_no_retry(pushback: str | None) -> None:
    with pytest.raises(Overloaded):
        Attempts(10, RetryBudget()).pause_s(Shed(pushback))


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c.name != "RESOURCE_EXHAUSTED"])
def test_only_shed_calls_are_retried_here(code: grpc.StatusCode) -> None:
    with pytest.raises(ResonnxError):
        Attempts(10, RetryBudget()).pause_s(Shed("0", code))


def test_an_empty_budget_ends_retries() -> None:
    with pytest.raises(Overloaded):
        Attempts(10, empty_budget()).pause_s(Shed("0"))


def test_a_call_that_began_to_answer_is_not_retried() -> None:
    attempts = Attempts(10, RetryBudget())
    attempts.answered()
    with pytest.raises(Overloaded):
        attempts.pause_s(Shed("0"))


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_over_zero(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        Attempts(timeout_s, RetryBudget())
