"""The retry budget and the decision to try again, under any history."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from resonnx import Overloaded, ResonnxError, Unavailable
from resonnx._transport.retry import Attempts, Budgets, RetryBudget


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
    attempts = Attempts(timeout_s, Budgets(), clock=clock)
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
        Attempts(10, Budgets()).pause_s(Shed(pushback))


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c.name != "RESOURCE_EXHAUSTED"])
def test_only_shed_calls_are_retried_here(code: grpc.StatusCode) -> None:
    with pytest.raises(ResonnxError):
        Attempts(10, Budgets()).pause_s(Shed("0", code))


def test_an_empty_budget_ends_retries() -> None:
    budgets = Budgets()
    while budgets.refused.withdraw():
        pass
    with pytest.raises(Overloaded):
        Attempts(10, budgets).pause_s(Shed("0"))


def test_a_call_that_began_to_answer_is_not_retried() -> None:
    attempts = Attempts(10, Budgets())
    attempts.answered()
    with pytest.raises(Overloaded):
        attempts.pause_s(Shed("0"))


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_over_zero(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        Attempts(timeout_s, Budgets())


UNREACHED = Shed(None, grpc.StatusCode.UNAVAILABLE)


@given(servers=st.integers(2, 8))
def test_a_call_that_does_not_reach_a_server_goes_to_each_other_one_at_once(servers: int) -> None:
    attempts = Attempts(10, Budgets(), servers)
    assert [attempts.pause_s(UNREACHED) for _ in range(servers - 1)] == [0.0] * (servers - 1)
    if servers == 2:
        assert attempts.pause_s(UNREACHED) == 0.05
    with pytest.raises(Unavailable):
        attempts.pause_s(UNREACHED)


def test_what_does_not_reach_servers_is_retried_within_its_own_budget() -> None:
    budgets = Budgets()
    for _ in range(100):
        assert Attempts(10, budgets, 2).pause_s(UNREACHED) == 0
    while budgets.unreached.withdraw():
        pass
    refused = 0
    for _ in range(20):
        try:
            Attempts(10, budgets, 2).pause_s(UNREACHED)
        except Unavailable:
            refused += 1
    assert refused >= 18, "one retry in ten calls is left"
    assert Attempts(10, budgets, 2).pause_s(Shed("1")) == 0.001, "refusals have their own budget"


def test_retry_info_invites_where_there_is_no_pushback_and_a_pushback_overrides_it() -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000)))

    class Told(Shed):
        def trailing_metadata(self):
            return (*super().trailing_metadata(), ("grpc-status-details-bin", status.SerializeToString()))

    assert Attempts(10, Budgets()).pause_s(Told(None)) == 0.25
    assert Attempts(10, Budgets()).pause_s(Told("40")) == 0.04
    with pytest.raises(Overloaded) as caught:
        Attempts(10, Budgets()).pause_s(Told("-1"))
    assert caught.value.retry_after_s is None
