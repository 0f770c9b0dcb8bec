"""Many tasks of one request, begun and given up some at a time: a thousand in one turn would hold the event loop."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Of tasks, each of which takes about a tenth of a millisecond of a turn.
_IN_A_TURN: Final = 32


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of `works`, at least one, at once; return their results in order. One that raises ends the others."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            if not len(tasks) % _IN_A_TURN:
                await asyncio.sleep(0)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return _results(tasks)
    except BaseException:
        # Tasks hold errors, which hold this frame: none is kept here.
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
    """Take note of an error that nobody is told, or asyncio would complain of it."""
    if not task.cancelled():
        task.exception()
