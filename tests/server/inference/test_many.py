"""Many tasks of one request: none of them, beginning, failing or given up, keeps others' turns waiting."""

import asyncio
import gc
import logging
import weakref
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from resonnx_server.inference.many import all_of

from ..waiting import until

MOST = 40


class Turns:
    """Counts what tasks do in each turn of the event loop."""

    def __init__(self) -> None:
        self.now = 0
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.now += 1

    async def work(self, number: int, until: asyncio.Future[None]) -> int:
        self.begun[self.now] += 1
        try:
            await asyncio.shield(until)
        finally:
            self.ended[self.now] += 1
        return number


async def test_results_are_in_order_and_tasks_begin_some_in_a_turn() -> None:
    turns, free = Turns(), asyncio.get_running_loop().create_future()
    counting = asyncio.ensure_future(turns.count())
    asked = asyncio.ensure_future(all_of(turns.work(number, free) for number in range(1000)))
    await until(lambda: turns.begun.total() == 1000)
    assert max(turns.begun.values()) <= MOST
    free.set_result(None)
    assert await asked == list(range(1000))
    counting.cancel()


@pytest.mark.parametrize("fails", [False, True])
async def test_they_are_given_up_some_in_a_turn(fails: bool) -> None:
    """Whether the caller goes or one of them fails."""
    turns, free = Turns(), asyncio.get_running_loop().create_future()
    fail = asyncio.Event()

    async def failing() -> int:
        await fail.wait()
        raise KeyError("one of many")

    works: list[Coroutine[Any, Any, int]] = [turns.work(number, free) for number in range(1000)]
    counting = asyncio.ensure_future(turns.count())
    asked = asyncio.ensure_future(all_of([*works[:500], failing(), *works[500:]]))
    await until(lambda: turns.begun.total() == 1000)
    if fails:
        fail.set()
    else:
        asked.cancel()
    with pytest.raises(KeyError if fails else asyncio.CancelledError):
        await asked
    await until(lambda: turns.ended.total() == 1000)
    assert max(turns.ended.values()) <= MOST
    counting.cancel()


async def test_a_failure_keeps_nothing_and_others_are_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    class Picture:
        pass

    async def work(picture: Picture) -> None:
        await asyncio.sleep(0)
        raise KeyError(type(picture).__name__)

    pictures = [Picture() for _ in range(100)]
    alive = [weakref.ref(picture) for picture in pictures]
    gc.collect()
    gc.disable()
    try:
        with caplog.at_level(logging.ERROR, "asyncio"):
            with suppress(KeyError):
                await all_of(work(picture) for picture in pictures)
            pictures.clear()
            # Some in each turn.
            for _ in range(10):
                await asyncio.sleep(0)
        assert not [each for each in alive if each() is not None]
        assert not caplog.records
    finally:
        gc.enable()


async def test_those_that_are_given_up_are_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    """Some are cancelled, others fail when they are told to end."""

    async def fails_first() -> None:
        await asyncio.sleep(0)
        raise KeyError("the first")

    async def waits(number: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if number % 2:
                raise ValueError("at its end") from None
            raise

    with pytest.raises(KeyError):
        await all_of([*(waits(number) for number in range(4)), fails_first()])
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert not caplog.records
