"""Threads that do the most urgent of what waits; what nobody waits for any more is let go of at once."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from resonnx_server.engine.batcher import PRIORITY_LEVELS
from resonnx_server.errors import Unavailable

T = TypeVar("T")

_CLOSED: Final = "the server is shutting down"


class _Job(Generic[T]):
    """Work, and who waits for what it returns."""

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[], T], future: "asyncio.Future[T]") -> None:
        self.work = work
        self.future = future


class Threads:
    """A fixed number of threads, which take work by its priority, and within one as it came.

    Not a ThreadPoolExecutor: its queue knows no priorities, and holds what was cancelled until its turn comes.

    Args:
        count: Threads.
        name: Of each, before its number.
    """

    def __init__(self, count: int, name: str) -> None:
        self._changed = threading.Condition()
        # Ordered sets: what is cancelled leaves from the middle in O(1), and what is taken from the front leaves no gap
        # to walk over, as in a plain dict.
        self._levels: list[OrderedDict[_Job[Any], None]] = [OrderedDict() for _ in range(PRIORITY_LEVELS)]
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], priority: int) -> T:
        """Return what `work` returns on one of the threads, or raise what it raises.

        Cancelled before its turn, it is never done. In the middle, it goes on for nobody.

        Args:
            work: Whatever lets go of the GIL.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.

        Raises:
            Unavailable: The threads are closed.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(work, future)
        with self._changed:
            if self._closed:
                raise Unavailable(_CLOSED)
            self._levels[priority - 1][job] = None
            self._changed.notify()
        try:
            return await future
        except asyncio.CancelledError:
            with self._changed:
                self._levels[priority - 1].pop(job, None)
            raise
        finally:
            # An error holds this frame and the future the error: what is damaged would live until garbage is collected.
            del future, job, work

    async def close(self, patience_s: float) -> bool:
        """Give up what waits, and end the threads.

        Args:
            patience_s: How long to wait for what they do.

        Returns:
            False if one has not ended by then: it is left behind.
        """
        with self._changed:
            self._closed = True
            left = [job for level in self._levels for job in level]
            for level in self._levels:
                level.clear()
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
        while (job := self._next()) is not None:
            try:
                result = job.work()
            except BaseException as error:  # the boundary of one job: who waits for it gets whatever it raised
                _post(job.future, error=error)
            else:
                _post(job.future, result)
                del result
            # What it holds must not live until the next one.
            del job

    def _next(self) -> _Job[Any] | None:
        """Wait for the most urgent job; None when there will be no more."""
        with self._changed:
            while not self._closed:
                for level in self._levels:
                    if level:
                        return level.popitem(last=False)[0]
                self._changed.wait()
            return None


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
