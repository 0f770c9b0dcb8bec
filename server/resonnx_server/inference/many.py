"""Runs many coroutines of one request. Few are started or cancelled at once, to keep the event loop responsive."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Tasks that are started or cancelled at once, at about 0.1 ms each.
_AT_ONCE: Final = 32


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run `works`, at least one, concurrently; return their results in order. One that raises cancels the others."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            if not len(tasks) % _AT_ONCE:
                await asyncio.sleep(0)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return _results(tasks)
    except BaseException:
        # Tasks hold errors, which hold this frame: no task is kept here.
        _cancel(tasks)
        raise


def _results(tasks: list[asyncio.Task[T]]) -> list[T]:
    """Return the results of all tasks, or raise the first error."""
    results = []
    try:
        for task in tasks:
            if task.done():
                results.append(task.result())
    finally:
        del task
    return results


def _cancel(tasks: list[asyncio.Task[T]]) -> None:
    for _ in range(min(_AT_ONCE, len(tasks))):
        task = tasks.pop()
        task.add_done_callback(_retrieve)
        task.cancel()
    if tasks:
        asyncio.get_running_loop().call_soon(_cancel, tasks)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's error, which asyncio would log otherwise."""
    if not task.cancelled():
        task.exception()
