"""Answers many requests of one stream at once, in the order in which they are done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")

# Requests of one stream that are read ahead of its answers. A reader who is slower than that stops being read from.
IN_FLIGHT: Final = 64


async def pipeline(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[R]], in_flight: int = IN_FLIGHT
) -> AsyncIterator[R]:
    """Yield `answer(request)` for each request as it is done.

    Args:
        requests: Read until it ends; an error in it ends the stream with that error.
        answer: Must not raise: what goes wrong with one request is part of its answer.
        in_flight: Most requests that are read and whose answers have not been taken.
    """
    answers: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Task[R]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                task.add_done_callback(answers.put_nowait)
        finally:
            answers.put_nowait(None)

    reader = asyncio.create_task(read())
    reading = True
    try:
        while reading or tasks:
            done = await answers.get()
            if done is None:
                reading = False
                continue
            tasks.discard(done)
            yield done.result()
            room.release()
        await reader
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()
