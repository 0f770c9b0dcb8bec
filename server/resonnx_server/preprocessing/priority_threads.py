"""Threads that do the most urgent of what waits, as memory allows; what nobody waits for is let go of at once."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from resonnx_server.errors import Unavailable
from resonnx_server.preprocessing.queue import DecodeQueue

T = TypeVar("T")

_CLOSED: Final = "the server is shutting down"


class _Job(Generic[T]):
    """Work, and who waits for what it returns."""

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[], T], future: "asyncio.Future[T]") -> None:
        self.work = work
        self.future = future


class PriorityThreads:
    """A fixed number of threads, which take work by its priority, and within one as it came (preprocessing/queue.py).

    Not a ThreadPoolExecutor: its queue knows no priorities, and holds what was cancelled until its turn comes.

    Args:
        count: Threads.
        name: Of each, before its number.
        max_bytes: What work under way may take together, beside small jobs: see DecodeQueue.
    """

    def __init__(self, count: int, name: str, max_bytes: int) -> None:
        self._changed = threading.Condition()
        self._queue: DecodeQueue[_Job[Any]] = DecodeQueue(max_bytes)
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], priority: int, size: int) -> T:
        """Return what `work` returns on one of the threads, or raise what it raises.

        Cancelled before its turn, it is never done. In the middle, it goes on for nobody.

        Args:
            work: Whatever lets go of the GIL.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            size: Bytes that it takes.

        Raises:
            Unavailable: The threads are closed.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(work, future)
        with self._changed:
            if self._closed:
                raise Unavailable(_CLOSED)
            self._queue.put(job, priority, size)
            self._changed.notify()
        try:
            return await future
        except asyncio.CancelledError:
            with self._changed:
                if self._queue.remove(job, priority):
                    # Others may have waited behind it for memory.
                    self._changed.notify_all()
            raise
        finally:
            # An error holds this frame and the future the error: what is damaged would live until garbage is collected.
            del future, job, work

    @property
    def waiting(self) -> int:
        """Work that no thread has taken yet."""
        return len(self._queue)

    async def close(self, patience_s: float) -> bool:
        """Give up what waits, and end the threads.

        Args:
            patience_s: How long to wait for what they do.

        Returns:
            False if one has not ended by then: it is left behind.
        """
        with self._changed:
            self._closed = True
            left = self._queue.clear()
            self._changed.notify_all()
        for job in left:
            _settle(job.future, error=Unavailable(_CLOSED))
        return await asyncio.to_thread(self._join, patience_s)

    def _join(self, patience_s: float) -> bool:
        ends = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            job, size = taken
            try:
                result = job.work()
            except BaseException as error:  # the boundary of one job: who waits for it gets whatever it raised
                _post(job.future, error=error)
            else:
                _post(job.future, result)
                del result
            # What it holds must not live until the next one.
            del job, taken
            self._give_back(size)

    def _next(self) -> tuple[_Job[Any], int] | None:
        """Wait for the most urgent job that there is memory for; None when there will be no more."""
        with self._changed:
            while not self._closed:
                if (taken := self._queue.take()) is not None:
                    return taken
                self._changed.wait()
            return None

    def _give_back(self, size: int) -> None:
        if size:
            with self._changed:
                self._queue.give_back(size)
                self._changed.notify_all()


def _post(future: "asyncio.Future[T]", result: T | None = None, error: BaseException | None = None) -> None:
    # A closed loop has nobody who waits.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[Any]", result: object = None, error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
