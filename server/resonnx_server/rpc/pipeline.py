"""Answers many requests of one stream at once, in the order of the requests or as the answers are ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from resonnx_server.errors import ServerError, SlowReader, Unavailable
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.rpc.boundary import is_cancelled
from resonnx_server.rpc.fronts.call import StreamCall

Q = TypeVar("Q")
R = TypeVar("R")

# Read-ahead: requests of one stream that are read before their answers are put.
IN_FLIGHT: Final = 64
# Unsent parts of answers, which are emitted without waiting for their reader.
UNREAD: Final = 256
# Bytes of answers held back for an earlier one, beyond which no request is read.
HELD_BYTES: Final = 1 << 20


class Ordered(Generic[R]):
    """Holds back each answer until those to the requests before it are there.

    Args:
        size_of: An answer's bytes.
        most_bytes: Bytes of answers held back, from which on `room` waits.
        hold: Called with the bytes that are held back when they change; may raise.
    """

    def __init__(
        self, size_of: Callable[[R], int], most_bytes: int, hold: Callable[[int], object] = lambda _: None
    ) -> None:
        self._hold = hold
        self._size_of = size_of
        self._most_bytes = most_bytes
        # Answers by the number of their request.
        self._held: dict[int, R] = {}
        self._bytes = 0
        self._count = self._next = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    def number(self) -> int:
        """Return the number of the next request."""
        self._count += 1
        return self._count - 1

    def put(self, number: int, answer: R) -> list[R]:
        """Take the answer to a request, and return those that can be sent now, in their order."""
        self._held[number] = answer
        before = self._bytes
        self._bytes += self._size_of(answer)
        due: list[R] = []
        while self._next in self._held:
            due.append(self._held.pop(self._next))
            self._next += 1
        self._bytes -= sum(map(self._size_of, due))
        if self._bytes != before:
            self._hold(self._bytes)
        if self._bytes < self._most_bytes:
            self._has_room.set()
        else:
            self._has_room.clear()
        return due

    async def room(self) -> None:
        """Wait until less than `most_bytes` are held back."""
        await self._has_room.wait()


async def pipeline(
    requests: AsyncIterator[Q],
    answer: Callable[[Q, Callable[[R], None]], Awaitable[R | None]],
    answers: StreamCall,
    closing: asyncio.Event,
    in_flight: int = IN_FLIGHT,
    unread: int = UNREAD,
    *,
    in_order: Callable[[Q], bool] = lambda _: False,
    size_of: Callable[[R], int] = lambda _: 0,
    held_bytes: int = HELD_BYTES,
    hold: Callable[[int], object] = lambda _: None,
) -> None:
    """Put the parts that `answer(request, emit)` emits for each request, and its result after them.

    Args:
        requests: Read until it ends; an error in it ends the stream with that error.
        answer: An error in it ends the stream with that error; nothing is put for None.
        answers: The call that they are sent by.
        closing: When set, no more is read, requests under way are answered, and the stream ends.
        in_flight: Most requests that are read and not answered, or whose answers wait for room.
        unread: Most unsent answers when a part is emitted.
        in_order: Whether a request's answer is held back for those of earlier requests in order. Others are put as soon
            as they are ready, and hold back none.
        size_of: An answer's bytes.
        held_bytes: Bytes of answers held back, from which on no more is read.
        hold: Called with the bytes that are held back when they change. An error in it ends the stream with that error.

    Raises:
        ServerError: A request was cancelled though the call was not: it would have no answer.
        Unavailable: The stream ended because of `closing`.
        SlowReader: More than `unread` parts were unsent. The requests under way were cancelled at once.
    """
    room = asyncio.Semaphore(in_flight)
    ordered = Ordered[R | None](lambda each: 0 if each is None else size_of(each), held_bytes, hold)
    tasks: set[asyncio.Task[None]] = set()
    # Done when the stream has failed. The error is in `errors`: in the future it would hold this frame, and so itself.
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
            # Otherwise the status would be sent only after all parts that the caller does not read.
            answers.drop_unsent()
            fail(SlowReader(f"{unread} parts of answers were not read in time"))

    async def serve(request: Q, number: int | None) -> None:
        # The task serves this request only.
        IDENTITY.set(Identity.within(IDENTITY.get()))
        try:
            done = await answer(request, emit)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # Otherwise the answers to later requests would be held back for ever.
            raise ServerError("a request of the stream was cancelled") from None
        # A request that has ended counts as in flight until its answer is put.
        due = [done] if number is None else ordered.put(number, done)
        full: asyncio.Future[None] | None = None
        for ready in due:
            if ready is not None:
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
            await ordered.room()
            start(serve(request, ordered.number() if in_order(request) else None))

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
