"""Bytes of requests in flight: bounded, refused beyond the bound with a hint, and given back however a request ends."""

import asyncio
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import Overloaded
from resonnx_server.inference.memory_budget import MemoryBudget


def test_what_is_over_the_budget_is_refused_until_others_have_ended() -> None:
    budget = MemoryBudget(100)
    with budget.hold(60):
        with budget.hold(40):
            with pytest.raises(Overloaded, match="requests in flight hold 100 bytes and may hold 100") as refused:
                budget.hold(1)
            assert refused.value.retry_after_ms > 0
        with pytest.raises(Overloaded):
            budget.hold(41)
        with budget.hold(40):
            pass
    with budget.hold(100):
        pass


def test_one_larger_than_the_budget_goes_alone() -> None:
    budget = MemoryBudget(100)
    with budget.hold(1000), pytest.raises(Overloaded):
        budget.hold(1)
    with budget.hold(1), pytest.raises(Overloaded):
        budget.hold(1000)


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError()])
def test_what_fails_gives_back_what_it_held(error: BaseException) -> None:
    budget = MemoryBudget(100)
    with suppress(ValueError, asyncio.CancelledError), budget.hold(100):
        raise error
    with budget.hold(100):
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
                budget.hold(size)
        else:
            stack.enter_context(budget.hold(size))
            held.append((size, stack))
        if ends < len(held):
            held.pop(ends)[1].close()
