"""Answers many requests of one stream at once, in the order in which they are done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from resonnx_server.errors import SlowReader, Unavailable

Q = TypeVar("Q")
R = TypeVar("R")

# Requests of one stream that are read ahead of its answers. A reader who is slower than that stops being read from.
IN_FLIGHT: Final = 64
# Parts of answers that may wait for their reader: those who make them wait for nobody.
UNREAD: Final = 256


@dataclass(frozen=True, slots=True)
class _Part(Generic[R]):
    value: R


async def pipeline(
    requests: AsyncIterator[Q],
    answer: Callable[[Q, Callable[[R], None]], Awaitable[R]],
    closing: asyncio.Event,
    in_flight: int = IN_FLIGHT,
    unread: int = UNREAD,
) -> AsyncIterator[R]:
    """Yield for each request the parts that its answer told, and `answer(request, tell)` itself when it is done.

    Args:
        requests: Read until it ends; an error in it ends the stream with that error.
        answer: An error in it ends the stream with that error.
        closing: When set, no more is read, what is under way is answered, and the stream ends.
        in_flight: Most requests that are read and whose answers have not been taken.
        unread: Most parts that have not been taken.

    Raises:
        Unavailable: The stream ended because of `closing`.
        SlowReader: More parts than that wait to be taken. The requests under way were cancelled at once.
    """
    ready: asyncio.Queue[asyncio.Future[R] | _Part[R] | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Future[R]] = set()
    readers: set[asyncio.Future[None]] = set()
    parts = 0
    overrun = False

    def tell(value: R) -> None:
        nonlocal parts, overrun
        parts += 1
        overrun = overrun or parts > unread
        if overrun:
            cancel()
        else:
            ready.put_nowait(_Part(value))

    def cancel() -> None:
        for reader in readers:
            reader.cancel()
        for task in tasks:
            task.cancel()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.ensure_future(answer(request, tell))
                tasks.add(task)
                task.add_done_callback(ready.put_nowait)
        finally:
            ready.put_nowait(None)

    async def stop(reader: asyncio.Future[None]) -> None:
        await closing.wait()
        reader.cancel()

    reader = asyncio.create_task(read())
    readers.add(reader)
    closer = asyncio.create_task(stop(reader))
    reading = True
    try:
        while reading or tasks:
            done = await ready.get()
            if overrun:
                raise SlowReader(f"{unread} parts of answers were not read in time")
            if done is None:
                reading = False
            elif isinstance(done, _Part):
                parts -= 1
                yield done.value
            else:
                tasks.discard(done)
                yield done.result()
                room.release()
        await asyncio.wait((reader,))
        if reader.cancelled():
            raise Unavailable("the server is shutting down")
        reader.result()
    finally:
        closer.cancel()
        cancel()
        await asyncio.gather(reader, closer, *tasks, return_exceptions=True)
        # A cancelled task keeps its frames, which hold the request and `tell`: nothing may lead from there to the task,
        # or pictures of callers who left pile up until garbage is collected.
        tasks.clear()
        readers.clear()
        while not ready.empty():
            ready.get_nowait()
