"""A thread pool whose queue has priorities and a memory budget; cancelled jobs are dropped."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from resonnx_server.errors import Unavailable
from resonnx_server.memory.division import SMALL_PICTURE_BYTES
from resonnx_server.scheduling.sharing import PRIORITY_LEVELS, Shares, Turns

T = TypeVar("T")

_CLOSED: Final = "the server is shutting down"
# Expected time of a job, beyond which callers that come later begin no later for it.
_QUANTUM_NS: Final = 1_000_000.0


class _Waiting(NamedTuple):
    """A job of the queue: its priority's index, its arrival number, and what `put` was told."""

    level: int
    arrival: int
    size: int
    caller: str
    cost: float


class DecodeQueue(Generic[T]):
    """Jobs that wait for a thread and for memory, by priority.

    Within a priority callers are served in turns, by the expected time of what each was served (sharing.py), and the
    jobs of one caller first come, first served. A large job that waits for memory is never overtaken by another large
    one. Small jobs need no budget.

    Args:
        max_bytes: Budget of all large jobs in progress; a larger job runs alone.
        small_bytes: Memory of the largest small job.
    """

    def __init__(self, max_bytes: int, small_bytes: int = SMALL_PICTURE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._small_bytes = small_bytes
        self.bytes = 0
        self._arrivals = 0
        self._jobs: dict[T, _Waiting] = {}
        self._shares = [Shares() for _ in range(PRIORITY_LEVELS)]
        self._small: list[Turns[T]] = [Turns(shares) for shares in self._shares]
        self._large: list[Turns[T]] = [Turns(shares) for shares in self._shares]
        # The large job that waits for memory, by priority: no other is taken before it.
        self._next_large: list[T | None] = [None] * PRIORITY_LEVELS

    def put(self, job: T, priority: int, size: int, caller: str = "", cost: float = 1.0) -> None:
        """Add a job.

        Args:
            job: Hashable; not in the queue yet.
            priority: 1 (first) to sharing.PRIORITY_LEVELS.
            size: Its memory in bytes.
            caller: Whose job it is.
            cost: Its expected time in ns, above 0.
        """
        self._arrivals += 1
        level = priority - 1
        self._jobs[job] = _Waiting(level, self._arrivals, size, caller, cost)
        self._shares[level].begin(caller)
        self._turns(size)[level].add(job, caller)

    def remove(self, job: T) -> bool:
        """Remove a job. Returns whether it was in the queue."""
        if job not in self._jobs:
            return False
        self._pop(job)
        return True

    def take(self) -> tuple[T, int] | None:
        """Remove the next job that fits the budget; returns it and the bytes for `give_back`, or None."""
        small, large = self._first(self._small), self._first_large()
        if large is not None and not self._fits(self._jobs[large].size):
            large = None
        best = min((job for job in (small, large) if job is not None), default=None, key=self._rank)
        if best is None:
            return None
        waiting = self._jobs[best]
        self._shares[waiting.level].charge(waiting.caller, waiting.cost, _QUANTUM_NS)
        self._pop(best)
        held = waiting.size if best is large else 0
        self.bytes += held
        return best, held

    def give_back(self, size: int) -> None:
        """Return the memory of a finished job."""
        self.bytes -= size

    def clear(self) -> list[T]:
        """Remove and return all jobs."""
        left = [*self._jobs]
        for job in left:
            self._pop(job)
        return left

    def __len__(self) -> int:
        return len(self._jobs)

    def _turns(self, size: int) -> list[Turns[T]]:
        return self._small if size <= self._small_bytes else self._large

    def _fits(self, size: int) -> bool:
        return not self.bytes or self.bytes + size <= self._max_bytes

    def _rank(self, job: T) -> tuple[int, float, int]:
        """Order of two jobs: by priority, by what their callers were served, by arrival."""
        waiting = self._jobs[job]
        return waiting.level, self._shares[waiting.level].served(waiting.caller), waiting.arrival

    def _first(self, levels: list[Turns[T]]) -> T | None:
        for turns in levels:
            if turns:
                return next(turns.in_order(self._cost))
        return None

    def _first_large(self) -> T | None:
        """Return the first large job; once it is the first, it remains so until it is taken or removed."""
        first = self._first(self._large)
        if first is None:
            return None
        level = self._jobs[first].level
        if self._next_large[level] is None:
            self._next_large[level] = first
        return self._next_large[level]

    def _cost(self, job: T) -> float:
        return self._jobs[job].cost

    def _pop(self, job: T) -> None:
        waiting = self._jobs.pop(job)
        level = waiting.level
        self._turns(waiting.size)[level].remove(job, waiting.caller)
        self._shares[level].end(waiting.caller)
        if self._next_large[level] is job:
            self._next_large[level] = None


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """Work and the future of its result."""

    work: Callable[[], T]
    future: "asyncio.Future[T]"


class PriorityThreads:
    """A fixed number of threads that run jobs in the order of a DecodeQueue.

    Not a ThreadPoolExecutor, which has no priorities and keeps cancelled jobs until their turn.

    Args:
        count: Number of threads.
        name: Prefix of their names.
        max_bytes: Memory budget of large jobs.
        small_bytes: Memory of the largest small job; there is so much for one a thread.
    """

    def __init__(self, count: int, name: str, max_bytes: int, small_bytes: int = SMALL_PICTURE_BYTES) -> None:
        self._changed = threading.Condition()
        self._queue: DecodeQueue[_Job[Any]] = DecodeQueue(max_bytes, small_bytes)
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], priority: int, size: int, caller: str = "", cost: float = 1.0) -> T:
        """Run `work` on a thread and return its result.

        A job that is cancelled before its turn is dropped; a running one continues, and its result is ignored.

        Args:
            work: Should release the GIL.
            priority: 1 (first) to sharing.PRIORITY_LEVELS.
            size: Its memory in bytes.
            caller: Whose job it is.
            cost: Its expected time in ns, above 0.

        Raises:
            Unavailable: The pool is closed.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(work, future)
        with self._changed:
            if self._closed:
                raise Unavailable(_CLOSED)
            self._queue.put(job, priority, size, caller, cost)
            self._changed.notify()
        try:
            return await future
        except asyncio.CancelledError:
            with self._changed:
                if self._queue.remove(job):
                    # Other jobs may have waited for memory behind it.
                    self._changed.notify_all()
            raise
        finally:
            # Breaks the cycle of error, frame and future, which would keep the picture until garbage collection.
            del future, job, work

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        return len(self._queue)

    @property
    def large_bytes(self) -> int:
        """Memory of the large jobs in progress."""
        return self._queue.bytes

    async def close(self, patience_s: float) -> bool:
        """Fail waiting jobs with Unavailable and end the threads.

        Returns:
            Whether all threads have ended within `patience_s`; others are abandoned.
        """
        with self._changed:
            self._closed = True
            left = self._queue.clear()
            self._changed.notify_all()
        for job in left:
            _finish(job.future, error=Unavailable(_CLOSED))
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
            except BaseException as error:  # raised again where the job is awaited
                _post(job.future, error=error)
            else:
                _post(job.future, result)
                del result
            # Or their memory would live until the next job.
            del job, taken
            self._give_back(size)

    def _next(self) -> tuple[_Job[Any], int] | None:
        """Wait for the next job that fits the budget; returns None when the pool is closed."""
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
    # The loop may be closed.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_finish, future, result, error)


def _finish(future: "asyncio.Future[Any]", result: object = None, error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
