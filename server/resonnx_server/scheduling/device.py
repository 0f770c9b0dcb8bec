"""One accelerator and the lanes (threads) that work for it: a free lane pulls the most urgent work at once.

The device's lock guards the queues of all workloads attached to it; the event loop holds it only to add or drop work.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from resonnx_server.runtime.machine.host import compute_thread, stay_on
from resonnx_server.runtime.machine.processors import Processors
from resonnx_server.scheduling.buffers import Allocate

Clock = Callable[[], int]

_LOOK_AGAIN_NS: Final = 500_000


class Job(Protocol):
    """Work that a lane does outside the lock.

    Attributes:
        cost_ns: How long it is expected to take.
        has_all_cores: Threads on all of the device's cores work at it, not only the lane's.
    """

    cost_ns: float

    @property
    def has_all_cores(self) -> bool: ...

    def run(self) -> None:
        """Do it and deliver the answers; never raises."""


class Workload(Protocol):
    """A model's work for a device. All methods are called under the device's lock."""

    def ready_at_ns(self) -> int | None:
        """When there is work to take (monotonic; past is now), or None."""

    def due_ns(self) -> int:
        """When the most urgent work that is ready should be done (monotonic): the earliest goes first."""

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        """Hand over the next job, or None if there turns out to be none.

        Args:
            now_ns: Monotonic time.
            budget_ns: How long the job should take at most for other workloads' sake; None is as long as it likes.
        """

    def shortest_ns(self) -> float:
        """How long the next job is expected to take at least."""

    def objective_ns(self) -> int | None:
        """Time from arrival to answer that this workload should keep, if it has one and anybody has asked lately."""


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A busy lane: when its job should end (monotonic), and how long it was expected to take."""

    end_ns: int
    cost_ns: float


class Device:
    """Runs the work of its workloads on `lanes` threads.

    Args:
        name: For thread names and logs.
        lanes: Jobs that may run at once.
        clock: Monotonic ns.
        allocate: Memory that batches for it are put together in.
        processors: Lanes that compute by themselves stay each on one: schedulers leave two threads that compute on one
            processor for milliseconds while another is idle, as long as those who wake them come and go there. A lane
            that gets none is moved about by the system.
    """

    def __init__(
        self,
        name: str,
        lanes: int = 1,
        clock: Clock = time.monotonic_ns,
        allocate: Allocate = np.zeros,
        processors: Processors | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.allocate = allocate
        # Re-entrant: a workload that is called under the lock may call `notify`.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._workloads: list[Workload] = []
        self.lanes = lanes
        self._under_way: list[_UnderWay] = []
        # The same by the lane's thread.
        self._running: dict[int, _UnderWay] = {}
        # When sleeping lanes will look for work by themselves.
        self._alarms_ns: list[int] = []
        self._closed = False
        self._processors = processors or Processors(())
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-lane-{i}", daemon=True) for i in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def attach(self, workload: Workload) -> None:
        """Begin to serve `workload`."""
        with self._changed:
            self._workloads.append(workload)
            self._changed.notify_all()

    def detach(self, workload: Workload) -> None:
        """Take no more jobs from `workload`; jobs under way end."""
        with self._changed:
            self._workloads.remove(workload)

    def notify(self, ready_at_ns: int | None) -> None:
        """Wake a lane if none that sleeps would look for work by then. Call with the lock held.

        Waking a thread costs it, and those who share its core, more than most of what it would do here.
        """
        if ready_at_ns is None:
            return
        now = self.clock()
        if not any(now <= alarm_ns <= ready_at_ns for alarm_ns in self._alarms_ns):
            self._changed.notify()

    @property
    def is_idle(self) -> bool:
        """No lane has a job. Read with the lock held."""
        return not self._under_way

    def job_done(self) -> None:
        """Count the calling lane as idle, before its job tells of its outcome. Call with the lock held.

        Whoever is told asks for more at once, and must not find busy what only has yet to look for work.
        """
        if (under_way := self._running.pop(threading.get_ident(), None)) is not None:
            self._under_way.remove(under_way)

    def idle_lanes(self) -> int:
        """Lanes without a job, the asking one included. Call with the lock held."""
        return self.lanes - len(self._under_way)

    def under_way_ns(self, now_ns: int) -> int:
        """Expected time until a lane is free. Call with the lock held."""
        return 0 if self.idle_lanes() else max(0, min(job.end_ns for job in self._under_way) - now_ns)

    def close(self, patience_s: float | None = None) -> bool:
        """Finish the jobs under way and end the lanes.

        Args:
            patience_s: How long to wait for the jobs; None is as long as they take.

        Returns:
            False if a job has not ended by then: its lane is left behind.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        ends = None if patience_s is None else time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        # The event loop's turns are short, and what it brings makes the next batch larger: it goes first.
        compute_thread()
        processors, mine, stays = self._processors, None, False
        while (taken := self._wait_for_job()) is not None:
            job = taken
            # Threads that work together must find a processor each, wherever.
            if not job.has_all_cores and mine is None:
                mine = processors.take()
            if mine is not None and stays == job.has_all_cores:
                stays = not stays
                stay_on({mine} if stays else processors.ours)
            job.run()
            with self.lock:
                self.job_done()
            # Its arrays must not live until the next job.
            del job, taken
        if mine is not None:
            processors.give_back(mine)

    def _budget_ns(self, workload: Workload) -> float | None:
        """Longest job that leaves the other workloads a chance to keep their objectives: half of the tightest."""
        objectives = [other.objective_ns() for other in self._workloads if other is not workload]
        return min((objective / 2 for objective in objectives if objective is not None), default=None)

    def _must_leave_the_lane(self, workload: Workload, budget_ns: float | None) -> bool:
        """Whether the last idle lane is kept for others: with it, all would have jobs longer than they can wait.

        However soon one of those should end: that is a guess, and wrong where it matters most.
        """
        if budget_ns is None or self.lanes == 1 or self.idle_lanes() > 1:
            return False
        return workload.shortest_ns() > budget_ns and all(job.cost_ns > budget_ns for job in self._under_way)

    @staticmethod
    def _is_ready(workload: Workload, now_ns: int) -> bool:
        at = workload.ready_at_ns()
        return at is not None and at <= now_ns

    def _wait_for_job(self) -> Job | None:
        """Return the next job; None when the device is closed."""
        with self._changed:
            while not self._closed:
                now = self.clock()
                wake_at: int | None = None
                ready: list[Workload] = []
                for workload in self._workloads:
                    at = workload.ready_at_ns()
                    if at is None:
                        continue
                    if at <= now:
                        ready.append(workload)
                    elif wake_at is None or at < wake_at:
                        wake_at = at
                for workload in sorted(ready, key=lambda w: w.due_ns()):
                    budget = self._budget_ns(workload)
                    if self._must_leave_the_lane(workload, budget):
                        continue
                    if (job := workload.take(now, budget)) is not None:
                        under_way = _UnderWay(now + int(job.cost_ns), job.cost_ns)
                        self._under_way.append(under_way)
                        self._running[threading.get_ident()] = under_way
                        if any(self._is_ready(workload, now) for workload in self._workloads):
                            # One wake-up may have announced work for several lanes.
                            self._changed.notify()
                        return job
                    # What was ready has run out of time, say: look again, but let others have the lock.
                    wake_at = now + _LOOK_AGAIN_NS
                self._sleep(wake_at, now)
            return None

    def _sleep(self, until_ns: int | None, now_ns: int) -> None:
        if until_ns is None:
            self._changed.wait()
            return
        self._alarms_ns.append(until_ns)
        self._changed.wait((until_ns - now_ns) / 1e9)
        self._alarms_ns.remove(until_ns)
