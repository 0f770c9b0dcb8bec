"""Answers many requests of one stream at once, in the order of the requests or as the answers are ready."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

from resonnx_server.errors import ServerError, SlowReader, Unavailable

Q = TypeVar("Q")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

# Read-ahead: requests of one stream that are read before their answers are put.
IN_FLIGHT: Final = 64
# Unsent parts of answers, which are emitted without waiting for their reader.
UNREAD: Final = 256
# Bytes of answers held back for an earlier one, beyond which no request is read.
HELD_BYTES: Final = 1 << 20


class Answers(Protocol[R_contra]):
    """The sending side of a stream."""

    def put(self, answer: R_contra) -> "asyncio.Future[None] | None":
        """Queue an answer to be sent; the future, if there is one, is done when there is room for more."""

    @property
    def unsent(self) -> int:
        """Answers that are not sent yet."""

    def drop_unsent(self) -> None:
        """Forget them."""


class _Pending:
    """The type of `_PENDING`."""


_PENDING: Final = _Pending()


class Turn(Generic[R]):
    """One request's place in the order, and its answer once that is there."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: R | _Pending = _PENDING


class Turns(Generic[R]):
    """The order of a stream's answers: each is held back until those to the requests before it are there."""

    def __init__(self) -> None:
        self._turns: deque[Turn[R]] = deque()

    def take(self) -> Turn[R]:
        """Return the turn of a request, after all that were taken before."""
        turn: Turn[R] = Turn()
        self._turns.append(turn)
        return turn

    def settle(self, turn: Turn[R], answer: R) -> list[R]:
        """Take the answer of a turn, and return those that can be sent now, in their order."""
        turn.answer = answer
        due: list[R] = []
        turns = self._turns
        while turns and not isinstance(next_answer := turns[0].answer, _Pending):
            turns.popleft()
            due.append(next_answer)
        return due


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
    """Put for each request the parts that its answer emits, and the result of `answer(request, emit)` at its end.

    Args:
        requests: Read until it ends; an error in it ends the stream with that error.
        answer: An error in it ends the stream with that error.
        answers: Takes them.
        closing: When set, no more is read, requests under way are answered, and the stream ends.
        in_flight: Most requests that are read and whose answers are not put, or have found no room.
        unread: Most unsent answers when a part is emitted.
        in_order: Whether a request's answer is held back for those of earlier requests in order. Others are put as soon
            as they are ready, and hold back none.
        size_of: An answer's bytes.
        held_bytes: Bytes of answers held back, from which on no more is read.

    Raises:
        ServerError: A request was cancelled by something else than the end of the call: it would have no answer.
        Unavailable: The stream ended because of `closing`.
        SlowReader: More than `unread` parts were unsent. The requests under way were cancelled at once.
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

    def emit(part: R) -> None:
        if failed.done():
            return
        answers.put(part)
        if answers.unsent > unread:
            # Otherwise its reader would learn why the call ended only after all parts that it does not read.
            answers.drop_unsent()
            fail(SlowReader(f"{unread} parts of answers were not read in time"))

    async def serve(request: Q, turn: Turn[R] | None) -> None:
        try:
            done = await answer(request, emit)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # Otherwise later requests would wait for this turn for ever.
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
                # Other tasks await the same future.
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
            # First for the reader, beside which other tasks start and end, then for the remaining ones.
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
        # A cancelled task keeps its frames, which hold the request and `emit`: nothing may lead from there to the task,
        # or pictures of cancelled requests pile up until garbage is collected.
        tasks.clear()


def _is_cancelled() -> bool:
    """Whether the current task has itself been cancelled, not just what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Held:
    """Bytes of answers that are held back; the reader waits while they are `most` or more."""

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
