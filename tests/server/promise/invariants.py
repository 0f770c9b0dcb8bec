"""The promises, which are checked after every step, and for each job that begins and each request that ends."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from resonnx_server import errors
from resonnx_server.scheduling import replacement
from resonnx_server.scheduling.device import Job
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.queue import QueueReservation
from resonnx_server.scheduling.replacement import Event

from .model import ByHand, Request, resting_loop

PRIORITIES = (1, 4, 8)


class Invariants(RuleBasedStateMachine):
    """An engine, its requests, and what must hold of them after every step."""

    engine: Any = None
    device: ByHand
    max_queue_rows: int
    max_delay_ns = 0

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.outcomes: Counter[str] = Counter()
        self.raised: list[dict[str, Any]] = []
        self.is_closed = False
        self.can_open = True
        self.slowness = 1.0
        # Those that have not ended.
        self.unended: list[Request] = []
        self.turns = 0
        self.replacing: list[Callable[[], None]] = []
        self.patch = pytest.MonkeyPatch()
        machine = self

        class Opening:
            """The thread that opens a session again: it runs when the machine says so."""

            def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], **_: Any) -> None:
                self.start = lambda: machine.replacing.append(lambda: target(*args))

        self.patch.setattr(replacement, "threading", type("Threads", (), {"Thread": Opening}))
        self.loop = resting_loop()
        self.loop.set_exception_handler(lambda _, context: self.raised.append(context))

    # What engines differ in.

    def start(self, device: ByHand, draw: Callable[[Any], Any]) -> AnyEngine:
        """Return an engine on the device."""
        raise NotImplementedError

    def draw_work(self, rng: random.Random) -> tuple[int, str, Any, Any]:
        """Return a request's rows, how it fails alone, its shape, and what `cost_of` and `ask` need."""
        raise NotImplementedError

    def cost_of(self, work: Any, rows: int) -> Any:
        """Return the size of a request in the engine's terms."""
        raise NotImplementedError

    async def ask(self, request: Request, work: Any, reservation: QueueReservation) -> Any:
        """Submit a request."""
        raise NotImplementedError

    def members(self, job: Job) -> Iterable[tuple[Request, int]]:
        """Return the requests of a job that begins, each with its rows if these have waited until now."""
        raise NotImplementedError

    def check_beside(self) -> None:
        """Check I6 while something runs."""

    def check_batch(self, job: Job, members: list[tuple[Request, int]]) -> None:
        """Check I5."""
        raise NotImplementedError

    def check_answer(self, request: Request, answer: Any) -> None:
        """Check I3."""
        raise NotImplementedError

    def open_again(self, run: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        """Return what opens a session again."""

        def open_again() -> Callable[..., Any]:
            if not self.can_open:
                raise OSError("the file has gone")
            return run

        return open_again

    # How it goes on.

    def settle(self) -> None:
        """Let the event loop come to rest, lanes begin what they can, and look at what has ended."""
        self.turn()
        while self.device.idle_lanes() and (job := self.device.take(self.engine)) is not None:
            self.turn()
            self._begun(job)
        self.turn()

    def turn(self) -> None:
        """Let the event loop come to rest, and look at what has ended."""
        self.loop.run_forever()
        ended = [each for each in self.unended if each.is_over]
        self.unended = [each for each in self.unended if not each.is_over]
        for request in ended:
            self._over(request)

    def finish_job(self, job: Job, slowness: float = 1.0) -> None:
        runs = self.device.runs_of(job)
        for request, _ in self.members(job):
            request.run_ns = self.device.ns
        if runs.is_over:
            self.mark_hung(job)
        self.slowness = slowness
        self.device.end(job, runs)
        self.settle()

    def mark_hung(self, job: Job) -> None:
        for request, _ in self.members(job):
            request.hung |= not request.is_over

    def spend(self, cost_ns: float) -> None:
        """Let a run take its time."""
        self.device.ns += int(cost_ns * self.slowness)

    def waiting(self) -> list[Request]:
        return [each for each in self.unended if each.waits]

    def _on_event(self, event: Event) -> None:
        if event.kind == "stopped":
            self.close_engine()

    def close_engine(self) -> None:
        self.is_closed = True
        self.engine.close()

    # Promises.

    @invariant()
    def nothing_is_lost(self) -> None:
        """I1, I9, I10, I11."""
        if self.engine is None:
            return
        assert not self.raised, "no outcome comes twice, and no counter fails"
        assert self.engine.queued_rows() == sum(each.rows - each.begun for each in self.waiting())
        limit = self.max_queue_rows
        callers = len({each.caller for each in self.unended})
        assert self.engine.queued_rows() <= sum(max(1, limit // number) for number in range(1, callers + 1))
        if self.is_closed:
            assert not self.engine.queued()

    @invariant()
    def lanes_work(self) -> None:
        """I6: where nothing runs, something may begin."""
        if self.engine is None or self.engine.is_paused or self.is_closed:
            return
        if self.device.under_way():
            self.check_beside()
        elif any(each.may_run.is_set() for each in self.unended):
            at = self.engine.ready_at_ns()
            assert at is not None
            assert self.device.ns < at <= self.device.ns + self.max_delay_ns

    def _begun(self, job: Job) -> None:
        members = list(self.members(job))
        waited = [(request, rows) for request, rows in members if rows]
        for request, rows in waited:
            assert not request.is_over, "I1"
            assert request.deadline_ns is None or self.device.ns < request.deadline_ns, "I2"
            request.begun += rows
            assert request.begun <= request.rows, "I1"
        self.check_batch(job, members)
        for place, (request, _) in enumerate(waited):
            for other in self.waiting():
                # The first is chosen of all, its company of those of equal shape.
                if other is not request and (not place or other.shape == request.shape):
                    assert other.priority >= request.priority, "I4"
                    assert not other.precedes(request), "I4"

    def _over(self, request: Request) -> None:
        """Check how a request ended: I1, I2, I3, I7, I8."""
        assert request.task is not None
        if request.task.cancelled():
            assert request.was_cancelled, "I7"
            self.outcomes["cancelled"] += 1
            return
        error = request.task.exception()
        if error is None:
            assert not request.bad, "I8"
            assert not request.hung, "I8"
            self.check_answer(request, request.task.result())
            self.outcomes["ok"] += 1
            return
        if isinstance(error, errors.InferenceHung):
            assert request.hung, "I8"
        elif isinstance(error, errors.InferenceFailed):
            assert request.bad, "I8"
            assert error.__cause__ is error.__context__ is None
        elif isinstance(error, errors.DeadlineExceeded | errors.WaitTooLong):
            assert request.deadline_ns is not None
        else:
            assert isinstance(error, errors.Unavailable), error
            assert self.is_closed
        self.outcomes[type(error).reason] += 1

    def check_room(self) -> None:
        """Check that the queue has all its room, half as much for a second caller, and that nothing precedes them."""
        limit, queue = self.max_queue_rows, self.engine._queue
        assert queue.reserved_rows == 0
        assert all(queue.ahead_ns(priority, "zoe") == 0 for priority in PRIORITIES)
        with self.engine.reserve(self.cost_of(None, limit), caller="ann"):
            with pytest.raises(errors.Overloaded):
                self.engine.reserve(self.cost_of(None, 1), caller="ann")
            with self.engine.reserve(self.cost_of(None, limit // 2), caller="zoe"):
                pass
