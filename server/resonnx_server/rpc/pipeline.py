"""Answers many requests of one stream at once, in the order of the requests or as the answers are ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from resonnx_server.errors import ServerError, SlowReader, Unavailable
from resonnx_server.rpc.turns import Turn, Turns

Q = TypeVar("Q")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

# Requests of one stream that are read ahead of its answers. A reader who is slower than that stops being read from.
IN_FLIGHT: Final = 64
# Parts of answers that may wait for their reader: those who make them wait for nobody.
UNREAD: Final = 256
# Bytes of answers that wait for one before them, at most, when another request is read.
HELD_BYTES: Final = 1 << 20


class Answers(Protocol[R_contra]):
    """Where answers go; rpc.core.stream.StreamCall is one."""

    def put(self, answer: R_contra) -> "asyncio.Future[None] | None":
        """Send an answer after those before it; what comes back, if anything, is done when there is room for more."""

    @property
    def unsent(self) -> int:
        """Answers that wait to be sent."""

    def drop_unsent(self) -> None:
        """Forget them."""


async def pipeline(
    requests: AsyncIterator[Q],
    answer: Callable[[Q, Callable[[R], None]], Awaitable[R]],
    answers: Answers[R],
    closing: asyncio.Event,
    in_flight: int = IN_FLIGHT,
    unread: int = UNREAD,
    *,
    in_order: Callable[[Q], bool] = lambda _: False,
    size_of: Callable[[R], int] = lambda _: 0,
    held_bytes: int = HELD_BYTES,
) -> None:
    """Put for each request the parts that its answer tells, and `answer(request, tell)` itself when it is done.

    Args:
        requests: Read until it ends; an error in it ends the stream with that error.
        answer: An error in it ends the stream with that error.
        answers: Takes them.
        closing: When set, no more is read, what is under way is answered, and the stream ends.
        in_flight: Most requests that are read and whose answers have found no room, or wait for one before them.
        unread: Most answers that wait to be sent when a part is told.
        in_order: Whether a request's answer comes after those to the requests before it that are in order, too. Others
            wait for nobody, and nobody for them.
        size_of: An answer's bytes.
        held_bytes: Bytes of answers that wait for one before them: from there on no more is read.

    Raises:
        ServerError: A request was cancelled, though nobody has gone: it would have no answer.
        Unavailable: The stream ended because of `closing`.
        SlowReader: More than that wait. The requests under way were cancelled at once.
    """
    room = asyncio.Semaphore(in_flight)
    turns: Turns[R] = Turns()
    held = _Held(held_bytes)
    tasks: set[asyncio.Task[None]] = set()
    # Done when the stream has failed, of what `errors` holds: an exception in it would hold this frame, and so itself.
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    errors: list[BaseException] = []

    def fail(error: BaseException) -> None:
        if not failed.done():
            errors.append(error)
            failed.set_result(None)
            for task in tasks:
                task.cancel()

    def tell(part: R) -> None:
        if failed.done():
            return
        answers.put(part)
        if answers.unsent > unread:
            # Or its reader would learn why the call ended only after all that it does not read.
            answers.drop_unsent()
            fail(SlowReader(f"{unread} parts of answers were not read in time"))

    async def serve(request: Q, turn: Turn[R] | None) -> None:
        try:
            done = await answer(request, tell)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # Whoever did so: those behind this request would wait for their turn for ever.
            raise ServerError("a request of the stream was cancelled") from None
        # Until it is put, an answer keeps its request's part of the room, though this task has ended.
        if turn is None:
            due = [done]
        else:
            held.add(size_of(done))
            due = turns.settle(turn, done)
            held.remove(sum(map(size_of, due)))
        full: asyncio.Future[None] | None = None
        for ready in due:
            full = answers.put(ready)
        try:
            if full is not None:
                # Others wait for the same.
                await asyncio.shield(full)
        finally:
            for _ in due:
                room.release()

    async def read() -> None:
        async for request in requests:
            await room.acquire()
            await held.wait()
            start(serve(request, turns.take() if in_order(request) else None))

    def start(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)
        return task

    def ended(task: "asyncio.Task[None]") -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            fail(error)

    reader = start(read())
    closer = asyncio.create_task(closing.wait())
    closer.add_done_callback(lambda _: reader.cancel())
    try:
        while tasks and not failed.done():
            # For the reader, which others come and go beside, and then for whatever is left.
            await asyncio.wait((failed, *({reader} & tasks or tasks)), return_when=asyncio.FIRST_COMPLETED)
        if errors:
            raise errors.pop()
        if reader.cancelled():
            raise Unavailable("the server is shutting down")
    finally:
        closer.cancel()
        failed.cancel()
        left = [*tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(closer, *left, return_exceptions=True)
        # A cancelled task keeps its frames, which hold the request and `tell`: nothing may lead from there to the task,
        # or pictures of callers who left pile up until garbage is collected.
        tasks.clear()


def _is_cancelled() -> bool:
    """Whether the task that asks has itself been cancelled, not just what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Held:
    """Bytes of answers that wait for one before them; a reader waits while they are many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._fits: asyncio.Future[None] | None = None

    def add(self, size: int) -> None:
        self._bytes += size

    def remove(self, size: int) -> None:
        self._bytes -= size
        if self._fits is not None and self._bytes < self._most:
            if not self._fits.done():
                self._fits.set_result(None)
            self._fits = None

    async def wait(self) -> None:
        if self._bytes >= self._most:
            self._fits = asyncio.get_running_loop().create_future()
            await self._fits
