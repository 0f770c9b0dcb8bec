"""A device and an event loop that go on when a test says so, and what is known of a request."""

import asyncio
import selectors
import threading
from dataclasses import dataclass, field
from typing import Any

from resonnx_server.runtime.interruption import Interruption
from resonnx_server.scheduling.device import Device, Job
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.watchdog import UnderWay

MS = 1_000_000
# Of a run; far above what any takes here.
RUN_TIMEOUT_S = 1.0


class _Nothing(selectors.SelectSelector):
    """Waits for nothing: where the loop would wait, it stops."""

    stop = staticmethod(lambda: None)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.stop()
        return []


def resting_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose `run_forever` ends when nothing is left to be done at once."""
    selector = _Nothing()
    loop = asyncio.SelectorEventLoop(selector)
    selector.stop = loop.stop
    return loop


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
