"""One accelerator and its lanes (threads), which take the most urgent work as soon as they are free.

The device's lock guards the queues of all attached workloads; the event loop holds it only to add or remove requests.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from resonnx_server.runtime.interruption import Interruption
from resonnx_server.runtime.machine.host import compute_thread
from resonnx_server.runtime.machine.processors import Processors, Seat
from resonnx_server.scheduling.session_pool import Allocate
from resonnx_server.scheduling.watchdog import UnderWay, Watchdog, Watched

Clock = Callable[[], int]

# After a workload that seemed ready had no job.
_LOOK_AGAIN_NS: Final = 500_000


class Job(Watched, Protocol):
    """Work for a lane, run without the lock.

    Attributes:
        cost_ns: Expected duration.
    """

    cost_ns: float

    def run(self) -> None:
        """Run it. Never raises."""

    def finish(self) -> None:
        """Take its results and deliver the answers; called after `run` with the device's lock held. Never raises."""

    def give_up(self) -> None:
        """Fail its requests, as `run` does not end; called in place of `finish` with the device's lock held.

        Never raises. Whatever `run` holds must not be used any more, as it may go on at any time.
        """


class Workload(Protocol):
    """A model's work for a device. All methods are called with the device's lock held."""

    def ready_at_ns(self) -> int | None:
        """Return the monotonic time at which a job can be taken (a past time is now), or None."""

    def due_ns(self) -> int:
        """Return the monotonic time at which the most urgent ready work is due; the earliest goes first."""

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        """Return the next job, or None if there is none after all.

        Args:
            now_ns: Monotonic time.
            budget_ns: Longest duration of the job that respects other workloads; None is no limit.
        """

    def shortest_ns(self) -> float:
        """Return the least expected duration of the next job."""

    def objective_ns(self) -> int | None:
        """Return the target latency, if there is one and a request has come lately."""


class Device:
    """Runs the jobs of its workloads on `lanes` threads.

    Args:
        name: For thread names and logs.
        lanes: Concurrent jobs.
        clock: Monotonic ns.
        allocate: Allocates the buffers of batches.
        processors: Processors to which lanes are bound while they compute by themselves. Otherwise the system may leave
            two lanes on one processor for milliseconds while another is idle. Lanes without one are not bound.
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
        # Re-entrant, as workloads call `notify` with the lock held.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._workloads: list[Workload] = []
        self.lanes = lanes
        # By the lane's thread.
        self._under_way: dict[int, UnderWay[Job]] = {}
        # Lanes whose job was given up and has not ended.
        self._abandoned: dict[int, threading.Thread] = {}
        # When sleeping lanes wake up by themselves.
        self._alarms_ns: list[int] = []
        # Called one by one when the device is idle.
        self._when_idle: deque[Callable[[], None]] = deque()
        self._closed = False
        self._busy_ns = 0
        self._processors = processors or Processors(())
        self._watchdog = Watchdog(name, self.lock, clock, self._under_way, self._abandon)
        self._threads: dict[int, threading.Thread] = {}
        for number in range(lanes):
            self._start_lane(number)
        if lanes:
            self._watchdog.start()

    def attach(self, workload: Workload) -> None:
        """Serve `workload` from now on."""
        with self._changed:
            self._workloads.append(workload)
            self._changed.notify_all()

    def detach(self, workload: Workload) -> None:
        """Take no more jobs from `workload`; jobs under way end."""
        with self._changed:
            self._workloads.remove(workload)

    def notify(self, ready_at_ns: int | None) -> None:
        """Wake a lane unless a sleeping one will wake up by then. Call with the lock held.

        A wake-up costs more than most of the work that it would find.
        """
        if ready_at_ns is None:
            return
        now = self.clock()
        if not any(now <= alarm_ns <= ready_at_ns for alarm_ns in self._alarms_ns):
            self._changed.notify()

    def wake(self) -> None:
        """Let all lanes look for work, as a workload may have become ready. Call with the lock held."""
        self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether no job is under way. Without the lock, for threads of low priority that must not hold it."""
        return not self._under_way

    def runs(self, workload: Workload) -> bool:
        """Whether a job of `workload` is under way. Call with the lock held."""
        return any(each.owner is workload for each in self._under_way.values())

    def is_idle_or_notifies(self, call: Callable[[], None]) -> bool:
        """Return whether no work is ready and most lanes are idle; if not, a lane calls `call` once when that is so.

        It holds the lock then, so `call` must neither wait nor raise. Waiting calls are called one at a time.
        """
        with self._changed:
            has_work = any(workload.ready_at_ns() is not None for workload in self._workloads)
            if not has_work and not self._when_idle and 2 * self.idle_lanes() > self.lanes:
                return True
            self._when_idle.append(call)
            self._changed.notify()
            return False

    def idle_lanes(self) -> int:
        """Return the number of lanes without a job, including the calling one. Call with the lock held."""
        return self.lanes - len(self._under_way)

    def under_way_ns(self, now_ns: int) -> int:
        """Return the expected time until a lane is free. Call with the lock held."""
        return 0 if self.idle_lanes() else max(0, min(job.end_ns for job in self._under_way.values()) - now_ns)

    def close(self, patience_s: float | None = None) -> bool:
        """Let the running jobs end, and end the lanes.

        Args:
            patience_s: Longest wait for the jobs; None is no limit.

        Returns:
            False if a job has not ended by then; its lane is left behind.
        """
        self._watchdog.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads.values())
        ends = None if patience_s is None else time.monotonic() + patience_s
        for thread in threads:
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def abandoned(self) -> int:
        """Return the number of threads whose job was given up and has not ended."""
        return len(self._abandoned)

    def busy_ns(self) -> int:
        """Return the time of jobs since the start, summed over lanes; a job on all cores counts for each of them."""
        with self.lock:
            now_ns = self.clock()
            return self._busy_ns + sum(each.taken_ns(now_ns, self.lanes) for each in self._under_way.values())

    def _start_lane(self, number: int) -> None:
        thread = threading.Thread(target=self._work, name=f"{self.name}-lane-{number}", daemon=True)
        self._threads[number] = thread
        thread.start()

    def _abandon(self, thread: int) -> None:
        """Give up the job of a thread, and let another thread take its lane; with the lock held."""
        job = self._under_way.pop(thread).job
        number = next(number for number, lane in self._threads.items() if lane.ident == thread)
        self._abandoned[thread] = self._threads[number]
        self._start_lane(number)
        job.give_up()

    def _work(self) -> None:
        # Gives way to the event loop, whose turns are short and make the next batch larger.
        compute_thread()
        runs = Interruption()
        runs.enter()
        seat = Seat(self._processors)
        while (taken := self._wait_for_job(runs)) is not None:
            job = taken
            # Threads that work together need a processor each, so the lane is not bound then.
            seat.stay(alone=not job.has_all_cores)
            job.run()
            with self.lock:
                # A caller that is answered may send its next request at once, which must not see the lane as busy.
                if (ended := self._under_way.pop(threading.get_ident(), None)) is None:
                    # It was given up, and another thread has the lane.
                    del self._abandoned[threading.get_ident()]
                    break
                self._busy_ns += ended.taken_ns(self.clock(), self.lanes)
                if runs.is_over:
                    runs.renew()
                job.finish()
            # Free its arrays before waiting for the next job.
            del ended, job, taken
        seat.leave()

    def _budget_ns(self, workload: Workload) -> float | None:
        """Return half of the tightest objective of the other workloads, the longest job that lets them keep theirs."""
        objectives = [other.objective_ns() for other in self._workloads if other is not workload]
        return min((objective / 2 for objective in objectives if objective is not None), default=None)

    def _must_leave_the_lane(self, workload: Workload, budget_ns: float | None) -> bool:
        """Whether the last idle lane is kept for other workloads: else all lanes would have jobs beyond their budget.

        The expected ends of these jobs do not count: they are least reliable when it matters.
        """
        if budget_ns is None or self.lanes == 1 or self.idle_lanes() > 1:
            return False
        return workload.shortest_ns() > budget_ns and all(job.cost_ns > budget_ns for job in self._under_way.values())

    def _wait_for_job(self, runs: Interruption) -> Job | None:
        """Return the next job; None when the device is closed."""
        with self._changed:
            while not self._closed:
                now = self.clock()
                job, wake_at = self._look(now, runs)
                if job is not None:
                    return job
                if self._when_idle and wake_at is None and 2 * self.idle_lanes() > self.lanes:
                    self._when_idle.popleft()()
                self._sleep(wake_at, now)
            return None

    def _look(self, now_ns: int, runs: Interruption) -> tuple[Job | None, int | None]:
        """Return a job that begins now, and when to look again if there is none; None is when something changes.

        A lane that sleeps holds no workload, which may be freed meanwhile.
        """
        times = [(at, workload) for workload in self._workloads if (at := workload.ready_at_ns()) is not None]
        wake_at = min([at for at, _ in times if at > now_ns], default=None)
        ready = [workload for at, workload in times if at <= now_ns]
        if len(ready) > 1:
            ready.sort(key=lambda workload: workload.due_ns())
        for workload in ready:
            budget = self._budget_ns(workload)
            if self._must_leave_the_lane(workload, budget):
                continue
            if (job := workload.take(now_ns, budget)) is not None:
                under_way = UnderWay(job, now_ns + int(job.cost_ns), job.cost_ns, runs, workload)
                self._under_way[threading.get_ident()] = under_way
                if any((at := each.ready_at_ns()) is not None and at <= now_ns for each in self._workloads):
                    # One wake-up may stand for work for several lanes.
                    self._changed.notify()
                return job, None
            # Its ready entries had run out of time, say. Release the lock before looking again.
            wake_at = now_ns + _LOOK_AGAIN_NS
        return None, wake_at

    def _sleep(self, until_ns: int | None, now_ns: int) -> None:
        if until_ns is None:
            self._changed.wait()
            return
        self._alarms_ns.append(until_ns)
        self._changed.wait((until_ns - now_ns) / 1e9)
        self._alarms_ns.remove(until_ns)
