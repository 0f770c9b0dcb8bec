"""Runs many coroutines of one request, starting and cancelling some a turn: a thousand would block the event loop."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Tasks, each of which takes about 0.1 ms.
_IN_A_TURN: Final = 32


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run `works`, at least one, concurrently; return their results in order. One that raises cancels the others."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            if not len(tasks) % _IN_A_TURN:
                await asyncio.sleep(0)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return _results(tasks)
    except BaseException:
        # Tasks hold errors, which hold this frame: no task is kept here.
        _give_up(tasks)
        raise


def _results(tasks: list[asyncio.Task[T]]) -> list[T]:
    """Return the results of all, or raise the first error of those that are done."""
    results = []
    try:
        for task in tasks:
            if task.done():
                results.append(task.result())
    finally:
        del task
    return results


def _give_up(tasks: list[asyncio.Task[T]]) -> None:
    for _ in range(min(_IN_A_TURN, len(tasks))):
        task = tasks.pop()
        task.add_done_callback(_look_at)
        task.cancel()
    if tasks:
        asyncio.get_running_loop().call_soon(_give_up, tasks)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve an error that is not raised to anybody, or asyncio would log it."""
    if not task.cancelled():
        task.exception()
