"""What the server promises of every request, as a state machine: an engine, its callers, and all that may go wrong.

Lanes begin and end jobs when the machine says so, under a clock that stands still in between; the watchdog is the
server's. The promises are checked after every step:

    I1  every accepted request ends exactly once
    I2  no job begins for a request whose deadline has passed, so an answer is late by one job at most
    I3  an answer is that to its own request
    I4  requests of one caller and priority are served in the order of their arrival
    I5  a batch has equal shapes, a size of the latency table, and at most as many rows
    I6  no lane idles while a request waits that may run
    I7  a request that is cancelled changes no other
    I8  of a batch that fails only the request fails that does so alone; of one that hangs all do, and no other
    I9  after the end nothing is pending
    I10 the queue holds at most its limit, and half as much again with several callers
    I11 accepted requests are those answered, failed, cancelled and late; what they held is free again
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from resonnx_server import errors
from resonnx_server.runtime.interruption import Interruption
from resonnx_server.scheduling import replacement
from resonnx_server.scheduling.device import Device, Job
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.queue import QueueReservation
from resonnx_server.scheduling.replacement import Event
from resonnx_server.scheduling.watchdog import UnderWay

MS = 1_000_000
CALLERS = ("ann", "bob", "eve")
PRIORITIES = (1, 4, 8)
# Of a run; far above what any takes here.
RUN_TIMEOUT_S = 1.0
_LOOK_NS = 250 * MS


class ByHand(Device):
    """A device whose lanes are the test. A job is known by a number in place of its thread."""

    def __init__(self, lanes: int) -> None:
        self.ns = 0
        super().__init__("by-hand", 0, lambda: self.ns)
        self.lanes = lanes
        self.given_up: list[tuple[Job, Interruption]] = []
        self._number = 0

    def under_way(self) -> list[Job]:
        return [each.job for each in self._under_way.values()]

    def runs_of(self, job: Job) -> Interruption:
        return next(each.runs for each in self._under_way.values() if each.job is job)

    def take(self, engine: AnyEngine) -> Job | None:
        """Let an idle lane begin a job of the engine, if there is one."""
        with self.lock:
            while True:
                at, waiting = engine.ready_at_ns(), engine.queued()
                if at is None or at > self.ns:
                    return None
                if (job := engine.take(self.ns, None)) is not None:
                    self._number += 1
                    end_ns = self.ns + int(job.cost_ns)
                    self._under_way[self._number] = UnderWay(job, end_ns, job.cost_ns, Interruption())
                    return job
                # Requests were late; a lane looks again at once.
                assert engine.queued() < waiting, "it said that it was ready"

    def end(self, job: Job, runs: Interruption) -> None:
        """Let a job run to its end, as its lane does."""
        number = next((number for number, each in self._under_way.items() if each.job is job), None)
        runs.enter()
        job.run()
        with self.lock:
            if number is None:
                self.given_up.remove((job, runs))
                self._abandoned.pop(id(job))
            else:
                del self._under_way[number]
                job.finish()

    def look(self) -> None:
        """Let the watchdog look once."""
        self._watchdog.look()

    def _abandon(self, thread: int) -> None:
        under_way = self._under_way.pop(thread)
        self.given_up.append((under_way.job, under_way.runs))
        self._abandoned[id(under_way.job)] = threading.current_thread()
        under_way.job.give_up()


@dataclass(eq=False)
class Request:
    """A request, and what became of it.

    Attributes:
        number: In order of arrival.
        bad: It fails alone in this way, or "".
        turn: In order of submission; None while its pictures are decoded.
        begun: Rows that were in a job.
        run_ns: When the latest run of a job with it began.
        may_run: Set once its pictures are "decoded".
        was_cancelled: Its caller has left.
        hung: A job with it was interrupted or given up.
    """

    number: int
    caller: str
    priority: int
    rows: int
    deadline_ns: int | None
    bad: str
    shape: Any = None
    turn: int | None = None
    begun: int = 0
    run_ns: int = 0
    may_run: asyncio.Event = field(default_factory=asyncio.Event)
    was_cancelled: bool = False
    hung: bool = False
    task: "asyncio.Task[Any] | None" = None

    @property
    def is_over(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def waits(self) -> bool:
        return not self.is_over and self.turn is not None and self.begun < self.rows

    def precedes(self, other: "Request") -> bool:
        """Whether it is the same caller's, of the same priority, and was submitted before."""
        alike = (self.caller, self.priority) == (other.caller, other.priority)
        return alike and self.turn is not None and other.turn is not None and self.turn < other.turn


class Promise(RuleBasedStateMachine):
    """The rules and promises that are the same for all engines."""

    engine: Any = None
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
        self._ended: set[int] = set()
        self._turns = 0
        self._replacing: list[Callable[[], None]] = []
        self._patch = pytest.MonkeyPatch()
        machine = self

        class Opening:
            """The thread that opens a session again: it runs when the machine says so."""

            def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], **_: Any) -> None:
                self.start = lambda: machine._replacing.append(lambda: target(*args))

        self._patch.setattr(replacement, "threading", type("Threads", (), {"Thread": Opening}))
        self.loop = asyncio.new_event_loop()
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

    # Rules.

    @initialize(data=st.data(), lanes=st.integers(1, 3))
    def begin(self, data: st.DataObject, lanes: int) -> None:
        self.device = ByHand(lanes)

        async def start() -> Any:
            return self.start(self.device, data.draw)

        self.engine = self.loop.run_until_complete(start())
        self.engine.on_event = self._on_event

    @rule(seed=st.integers(0, 2**32), count=st.sampled_from([1, 3, 6]), is_decoded=st.sampled_from([True, True, False]))
    def submit(self, seed: int, count: int, is_decoded: bool) -> None:
        """Requests of all callers come at once, some of which will be submitted later, when they are decoded."""
        rng = random.Random(seed)
        for _ in range(count):
            self._submit(rng, is_decoded)
        self.settle()

    def _submit(self, rng: random.Random, is_decoded: bool) -> None:
        caller, priority = rng.choice(CALLERS), rng.choice(PRIORITIES)
        allowed_ms = rng.choice([None, None, None, 3, 8, 20, 100])
        rows, bad, shape, work = self.draw_work(rng)
        deadline_ns = None if allowed_ms is None else self.device.ns + allowed_ms * MS
        request = Request(len(self.requests), caller, priority, rows, deadline_ns, bad, shape)
        try:
            reservation = self.engine.reserve(self.cost_of(work, rows), deadline_ns, priority, None, caller)
        except errors.Unavailable:
            assert self.is_closed
        except errors.DeadlineExceeded:
            assert deadline_ns is not None
        except errors.Overloaded as refused:
            self._refused(refused)
        else:
            assert not self.is_closed
            if is_decoded:
                request.may_run.set()
            self.requests.append(request)
            request.task = self.loop.create_task(self._call(request, work, reservation))

    def _refused(self, error: errors.Overloaded) -> None:
        assert 20 <= error.retry_after_ms <= 2000

    async def _call(self, request: Request, work: Any, reservation: QueueReservation) -> Any:
        with reservation:
            await request.may_run.wait()
            self._turns += 1
            request.turn = self._turns
            return await self.ask(request, work, reservation)

    @precondition(lambda self: any(not each.may_run.is_set() for each in self._unended()))
    @rule(data=st.data())
    def decoded(self, data: st.DataObject) -> None:
        self._any(data, [each for each in self._unended() if not each.may_run.is_set()]).may_run.set()
        self.settle()

    @precondition(lambda self: self._unended())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = self._any(data, self._unended())
        request.was_cancelled = True
        assert request.task is not None
        request.task.cancel()
        self.settle()

    @rule(ms=st.sampled_from([1, 2, 5, 30]))
    def tick(self, ms: int) -> None:
        self.device.ns += ms * MS
        self.settle()

    @precondition(lambda self: self.device.under_way())
    @rule(data=st.data(), slowness=st.sampled_from([0.5, 1.0, 1.0, 1.0, 4.0]))
    def finish(self, data: st.DataObject, slowness: float) -> None:
        self._finish(self._any(data, self.device.under_way()), slowness)

    @precondition(lambda self: self.device.under_way())
    @rule(looks=st.integers(5, 12))
    def hang(self, looks: int) -> None:
        """All jobs under way go on: after a second they are interrupted, and after another they are given up."""
        for _ in range(looks):
            self.device.ns += _LOOK_NS
            before = self.device.under_way()
            self.device.look()
            for job in before:
                if job not in self.device.under_way():
                    self._hung(job)
            self.settle()

    @precondition(lambda self: self.device.given_up)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """A job that was given up ends after all, which nobody notices."""
        job, runs = self._any(data, self.device.given_up)
        self.device.end(job, runs)
        self.settle()

    @precondition(lambda self: self._replacing)
    @rule(fails=st.sampled_from([False] * 7 + [True]))
    def swap(self, fails: bool) -> None:
        """A session is opened again, or cannot be, which ends the model."""
        self.can_open = not fails
        self._replacing.pop(0)()
        self.settle()

    @precondition(lambda self: len(self.requests) > 20 and not self.is_closed)
    @rule(sure=st.sampled_from([False, False, True]))
    def close(self, sure: bool) -> None:
        if sure:
            self._close()
            self.settle()

    def teardown(self) -> None:
        if self.engine is not None:
            try:
                self._drain()
            finally:
                self._patch.undo()
                self.loop.close()

    def open_again(self, run: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        """Return what opens a session again."""

        def open_again() -> Callable[..., Any]:
            if not self.can_open:
                raise OSError("the file has gone")
            return run

        return open_again

    # Promises.

    @invariant()
    def nothing_is_lost(self) -> None:
        """I1, I9, I10, I11."""
        if self.engine is None:
            return
        assert not self.raised, "no outcome comes twice, and no counter fails"
        assert self.engine.queued_rows() == sum(each.rows - each.begun for each in self._waiting())
        limit = self.max_queue_rows
        assert self.engine.queued_rows() <= limit + limit // 2
        if len({each.caller for each in self._unended()}) == 1:
            assert self.engine.queued_rows() <= limit
        if self.is_closed:
            assert not self.engine.queued()

    @invariant()
    def lanes_work(self) -> None:
        """I6: where nothing runs, something may begin."""
        if self.engine is None or self.engine.is_paused or self.is_closed:
            return
        if self.device.under_way():
            self.check_beside()
        elif any(each.may_run.is_set() for each in self._unended()):
            at = self.engine.ready_at_ns()
            assert at is not None
            assert self.device.ns < at <= self.device.ns + self.max_delay_ns

    # How it goes on.

    def settle(self) -> None:
        """Let the event loop come to rest, lanes begin what they can, and look at what has ended."""
        self._turn()
        while self.device.idle_lanes() and (job := self.device.take(self.engine)) is not None:
            self._turn()
            self._begun(job)
        self._turn()

    def _turn(self) -> None:
        async def turn() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        for request in self._unended():
            if request.is_over:
                self._ended.add(request.number)
                self._over(request)

    def _unended(self) -> list[Request]:
        return [each for each in self.requests if each.number not in self._ended]

    def _any(self, data: st.DataObject, among: list[Any]) -> Any:
        return among[data.draw(st.integers(0, len(among) - 1))]

    def _waiting(self) -> list[Request]:
        return [each for each in self._unended() if each.waits]

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
            for other in self._waiting():
                # The first is chosen of all, its company of those of equal shape.
                if other is not request and (not place or other.shape == request.shape):
                    assert other.priority >= request.priority, "I4"
                    assert not other.precedes(request), "I4"

    def _finish(self, job: Job, slowness: float = 1.0) -> None:
        runs = self.device.runs_of(job)
        for request, _ in self.members(job):
            request.run_ns = self.device.ns
        if runs.is_over:
            self._hung(job)
        self.slowness = slowness
        self.device.end(job, runs)
        self.settle()

    def _hung(self, job: Job) -> None:
        for request, _ in self.members(job):
            request.hung |= not request.is_over

    def spend(self, cost_ns: float) -> None:
        """Let a run take its time."""
        self.device.ns += int(cost_ns * self.slowness)

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

    def _on_event(self, event: Event) -> None:
        if event.kind == "stopped":
            self._close()

    def _close(self) -> None:
        self.is_closed = True
        self.engine.close()

    def _drain(self) -> None:
        """End as the server does: what is under way ends, then the engine is closed, and nothing is left (I9)."""
        for request in self._unended():
            request.may_run.set()
        self.settle()
        for _ in range(2_000):
            if not self._unended():
                break
            if self._replacing:
                self._replacing.pop(0)()
                self.settle()
            elif under_way := self.device.under_way():
                self._finish(under_way[0])
            else:
                self.device.ns += MS
                self.settle()
        assert not self._unended(), "I1"
        while self.device.under_way():
            self._finish(self.device.under_way()[0])
        self.nothing_is_lost()
        assert self.engine.queued() == 0
        assert sum(self.outcomes.values()) == len(self.requests), "I11"
        if not self.is_closed:
            # All room is free again, for any caller.
            self.check_room()
            self._close()
        for job, runs in list(self.device.given_up):
            self.device.end(job, runs)
        self._turn()
        assert not self.raised
        assert self.device.abandoned() == 0

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
