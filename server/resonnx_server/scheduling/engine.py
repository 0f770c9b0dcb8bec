"""One model's work for a device, of any kind: tensors, captions."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from resonnx_server.drift.drift import Drift, Watch
from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.device import Device, Workload
from resonnx_server.scheduling.queue import Entry, QueueReservation
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.replacement import Event, Replacement
from resonnx_server.scheduling.session_pool import AnySessionPool
from resonnx_server.scheduling.sharing import COMPARISON, DEFAULT_PRIORITY


class Task(Protocol):
    """A submitted request, or one part of it."""

    future: asyncio.Future[Any]


Cost = TypeVar("Cost")
Work = TypeVar("Work")
Answer = TypeVar("Answer")
T = TypeVar("T", bound=Task)


class Engine(Workload, Generic[Cost, Work, Answer, T]):
    """One model's requests and jobs. Requests come on the event loop; the device's lanes take jobs.

    A request reserves room before its pictures are decoded, and is submitted while the reservation is open:
    `with engine.reserve(cost, …) as reservation: … await engine.submit(work, reservation)`.

    Subclasses call `__init__` last, as lanes may ask for jobs from then on.

    Args:
        device: Runs the jobs.
        stats: The model's counters.
        queue: Waiting requests.
        drift: Compares its pictures and captions with the reference; None without reference pictures.

    Attributes:
        on_event: Called on the event loop when a run hung, or a session was replaced or could not be.
    """

    def __init__(self, device: Device, stats: ModelStats, queue: Batcher[T], drift: Drift | None = None) -> None:
        self.device, self.stats, self.drift = device, stats, drift
        self._queue = queue
        stats.objective_ns = queue.objective_ns or 0
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # Of runs that compare versions: counted apart from those of requests.
        self.comparison_stats = ModelStats()
        # Their processor time; of captions it is not measured, as they share steps with requests.
        self.comparison_processor_ns = 0
        self.on_event: Callable[[Event], None] = lambda _: None
        self._replacement = Replacement(device, self._tell)
        device.attach(self)

    def reserve(
        self,
        cost: Cost,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
        caller: str = "",
    ) -> QueueReservation:
        """Admit a request and reserve room for it in the queue.

        Args:
            cost: Size of the request, in the engine's own terms: rows of tensors, pictures and decode options.
            deadline_ns: Monotonic deadline of the answer; None is no limit.
            priority: 1 (first) to PRIORITY_LEVELS.
            decoding: Predicted decoding time of the request's picture files; None if there are none.
            caller: Whose request it is; the device's time is shared between callers.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline is too near even for an idle device.
            WaitTooLong: The deadline would pass because of the work queued before.
            Unavailable: The model is being closed.
        """
        self._check_open()
        with self.device.lock:
            if self._replacement.is_unloaded:
                self._reopen()
            return self._admit(cost, deadline_ns, priority, decoding, caller)

    async def submit(self, work: Work, reservation: QueueReservation) -> Answer:
        """Queue one request, or one part of it, within its reservation and return the answer.

        Raises:
            Overloaded: The queue is full: a large request reserves only part of its rows.
            DeadlineExceeded: The deadline passed first.
            DeadlineUnreachable: When its turn came, less time was left than the request takes.
            WaitTooLong: The same, and the wait was the reason.
            InferenceFailed: The runtime failed on this request, or its outputs are not usable.
            Unavailable: The model is being closed; or its sessions were closed, and cannot be opened again.
        """
        self._check_open()
        entry = self._entry(work, reservation)
        with self.device.lock:
            if self._replacement.is_unloaded:
                self._reopen()
            self._queue.push(entry, reservation)
            self.device.notify(self.ready_at_ns())
        try:
            return await self._answer(await entry.payload.future)
        except BaseException:
            # The request was cancelled, or some rows have failed: the others are not needed.
            with self.device.lock:
                self._queue.discard(entry)
            raise
        finally:
            # It holds the error, which holds this frame: inputs would live until garbage is collected.
            del entry

    def queued(self) -> int:
        """Return the number of queued requests, including those of which only some rows still wait."""
        return len(self._queue)

    def queued_rows(self) -> int:
        """Return the number of queued rows."""
        return self._queue.rows

    def oldest_wait_ns(self) -> int:
        """Return how long the oldest queued request has waited; 0 if none is queued."""
        with self.device.lock:
            oldest_ns = self._queue.oldest_ns()
        return 0 if oldest_ns is None else max(0, self.device.clock() - oldest_ns)

    def served_ns(self) -> dict[str, float]:
        """Return the expected device ns of batches so far, by caller; those without a name are "other"."""
        return self._queue.served.ns.copy()

    @property
    def policies(self) -> QueuePolicies | None:
        """Limits of waiting by priority, if there are any."""
        return self._queue.policies

    @property
    def is_paused(self) -> bool:
        """Whether no batch begins, because a session is being replaced or cannot be."""
        return self._replacement.is_paused and not self._replacement.is_unloaded

    @property
    def is_unloaded(self) -> bool:
        """Whether its sessions are closed, as it is unused; the next request opens them, and waits for that."""
        return self._replacement.is_unloaded

    def unload(self) -> list[Callable[..., Any]]:
        """Let go of its sessions until the next request.

        They stay where work waits or is under way, and where they cannot be opened again by themselves, as those of
        captions that stay on a GPU.

        Returns:
            What holds the sessions now; nothing if they stay. To free them takes milliseconds.
        """
        with self.device.lock:
            is_used = self._queue.rows or self._queue.reserved_rows or self.device.runs(self)
            held = [] if self._closed or is_used else self._replacement.unload(self._distinct_pools())
            if held:
                self._clear_buffers()
            return held

    def close(self) -> None:
        """Fail all queued requests and refuse new ones; batches under way end. May be called again."""
        with self.device.lock:
            if not self._closed:
                self._closed = True
                self.device.detach(self)
                self._abandon(closing)

    @property
    def is_running(self) -> bool:
        """Whether a job of it is under way; those whose runs were given up do not count."""
        with self.device.lock:
            return self.device.runs(self)

    def free(self) -> None:
        """Let go of its sessions and of the memory of its batches. Call once it is closed and no job is under way."""
        with self.device.lock:
            for pool in self._pools():
                pool.run, pool.open_again = _freed, None
            self._free_memory()
            # What leads back here, as garbage is collected rarely.
            self._replacement.end()
        self.on_event = lambda _: None

    @property
    @abstractmethod
    def batch_bytes(self) -> int:
        """Memory of the process that its largest batches take at once, in bytes, if all lanes run them."""

    @abstractmethod
    def _pools(self) -> Iterable[AnySessionPool]:
        """Return its sessions."""

    def _distinct_pools(self) -> list[AnySessionPool]:
        return [*{id(pool): pool for pool in self._pools()}.values()]

    def _reopen(self) -> None:
        """Open the sessions of an unused model, with the lock held; if that fails, its requests fail."""

        def failed(reason: str) -> None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._not_reopened, reason)

        self._replacement.reopen(self._distinct_pools(), failed)

    def _not_reopened(self, reason: str) -> None:
        with self.device.lock:
            # Unless a later request has begun another attempt.
            if self._replacement.is_unloaded and not self._replacement.is_opening:
                self._abandon(partial(Unavailable, f"the model was unloaded, and cannot be opened again: {reason}"))

    @abstractmethod
    def _clear_buffers(self) -> None:
        """Free the buffers that no batch uses."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Let go of the memory of batches, with the lock held."""

    @abstractmethod
    def _admit(
        self, cost: Cost, deadline_ns: int | None, priority: int, decoding: Decoding | None, caller: str
    ) -> QueueReservation:
        """Reserve room in the queue, with the lock held."""

    @abstractmethod
    def _entry(self, work: Work, reservation: QueueReservation) -> Entry[T]:
        """Return the queue entry of a request."""

    async def _answer(self, outcome: Any) -> Answer:
        """Return the answer for the result of a task's future."""
        answer: Answer = outcome
        return answer

    @abstractmethod
    def _abandon(self, error: Callable[[], Unavailable]) -> None:
        """Fail the requests that no job will end, each with an error of its own, on the loop with the lock held."""

    def _stats_of(self, caller: str) -> ModelStats:
        """Return the counters of a batch whose requests are a caller's."""
        return self.comparison_stats if caller == COMPARISON else self.stats

    def _watch_of(self, caller: str) -> Watch | None:
        """Return what watches the drift of a caller's batches, if anything does."""
        if self.drift is None:
            return None
        return self.drift.comparison if caller == COMPARISON else self.drift.requests

    def _tell(self, event: Event) -> None:
        # The loop may be closed.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_event, event)

    def _on_event(self, event: Event) -> None:
        self.stats.session_event(event.kind)
        self.on_event(event)

    def _check_open(self) -> None:
        if self._closed:
            raise closing()

    # The rest of Workload: what is the same for all kinds of work.

    def due_ns(self) -> int:
        due = self._queue.due_ns()
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        return self._queue.shortest_ns()

    def objective_ns(self) -> int | None:
        return self._queue.live_objective_ns()


def _freed(*_: object, **__: object) -> NoReturn:
    raise closing()


def closing() -> Unavailable:
    """Return the error of requests to an engine that has been closed."""
    return Unavailable("the model is being closed")


AnyEngine = Engine[Any, Any, Any, Any]
