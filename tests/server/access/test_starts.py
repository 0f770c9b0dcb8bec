"""The order in which handlers begin: callers take turns, and each caller's calls begin in their order."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.access.starts import _AT_ONCE, Starts

from ...conftest import examples


def _nothing(message: str, error: Exception) -> None:
    raise AssertionError(message) from error


async def _all_begun(starts: Starts) -> None:
    while len(starts):
        await asyncio.sleep(0)


def _noting(begun: list[tuple[str, int]], caller: str, number: int) -> Callable[[], None]:
    return lambda: begun.append((caller, number))


async def test_a_call_beside_a_flood_waits_for_one_turn() -> None:
    starts, begun = Starts(_nothing), list[tuple[str, int]]()
    for number in range(200):
        starts.add("flood", _noting(begun, "flood", number))
    starts.add("other", _noting(begun, "other", 0))
    assert len(begun) == _AT_ONCE
    await _all_begun(starts)
    assert begun.index(("other", 0)) <= _AT_ONCE + 1
    assert [number for caller, number in begun if caller == "flood"] == list(range(200))


async def test_a_call_that_is_alone_begins_at_once() -> None:
    starts, begun = Starts(_nothing), list[tuple[str, int]]()
    for number in range(3 * _AT_ONCE):
        starts.add("alone", _noting(begun, "alone", number))
        assert begun[-1] == ("alone", number)
        await asyncio.sleep(0)


async def test_a_coroutine_waits_for_its_callers_turn_and_may_be_cancelled_meanwhile() -> None:
    starts, begun = Starts(_nothing), list[str]()

    async def work(caller: str) -> None:
        await starts.turn(caller)
        begun.append(caller)

    flood = [asyncio.create_task(work("flood")) for _ in range(200)]
    other = asyncio.create_task(work("other"))
    await asyncio.sleep(0)
    flood[100].cancel()
    await other
    assert len(begun) <= 3 * _AT_ONCE
    await asyncio.gather(*flood, return_exceptions=True)
    assert begun.count("flood") == 199


async def test_the_loop_does_other_work_between() -> None:
    starts, begun = Starts(_nothing), list[tuple[str, int]]()
    for number in range(100):
        starts.add("flood", _noting(begun, "flood", number))
    seen = []
    while len(starts):
        seen.append(len(begun))
        await asyncio.sleep(0)
    assert all(later - earlier <= _AT_ONCE for earlier, later in pairwise(seen))


async def test_one_that_cannot_begin_holds_up_no_other() -> None:
    reported: list[str] = []
    starts, begun = Starts(lambda message, error: reported.append(str(error))), list[tuple[str, int]]()

    def fail() -> None:
        raise ValueError("broken")

    for number in range(_AT_ONCE):
        starts.add("a", _noting(begun, "a", number))
    starts.add("a", fail)
    starts.add("a", _noting(begun, "a", 99))
    await _all_begun(starts)
    assert reported == ["broken"]
    assert begun[-1] == ("a", 99)


@examples(50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_every_call_begins_once_and_in_its_callers_order(calls: list[tuple[str, bool]]) -> None:
    async def run() -> list[tuple[str, int]]:
        starts, begun = Starts(_nothing), list[tuple[str, int]]()
        for number, (caller, is_next_turn) in enumerate(calls):
            if is_next_turn:
                await asyncio.sleep(0)
            starts.add(caller, _noting(begun, caller, number))
        await _all_begun(starts)
        return begun

    begun = asyncio.run(run())
    assert sorted(number for _, number in begun) == list(range(len(calls)))
    for caller in "abc":
        mine = [number for name, number in begun if name == caller]
        assert mine == sorted(mine)
