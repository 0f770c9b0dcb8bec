"""One accelerator and the lanes (threads) that work for it: a free lane pulls the most urgent work at once.

The device's lock guards the queues of all workloads attached to it; the event loop holds it only to add or drop work.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

Clock = Callable[[], int]


class Job(Protocol):
    """Work that a lane does outside the lock."""

    def run(self) -> None:
        """Do it and deliver the answers; never raises."""


class Workload(Protocol):
    """A model's work for a device. All methods are called under the device's lock."""

    def ready_at_ns(self) -> int | None:
        """When there is work to take (monotonic; past is now), or None."""

    def oldest_ns(self) -> int:
        """Age of the most urgent work, when ready."""

    def take(self, now_ns: int) -> Job | None:
        """Hand over the next job, or None if there turns out to be none."""


class Device:
    """Runs the work of its workloads on `lanes` threads.

    Args:
        name: For thread names and logs.
        lanes: Jobs that may run at once.
        clock: Monotonic ns.
    """

    def __init__(self, name: str, lanes: int = 1, clock: Clock = time.monotonic_ns) -> None:
        self.name = name
        self.clock = clock
        # Re-entrant: a workload that is called under the lock may call `notify`.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._workloads: list[Workload] = []
        self._closed = False
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

    def notify(self) -> None:
        """Wake a lane: a workload has new work. Call with the lock held."""
        self._changed.notify()

    def close(self) -> None:
        """Finish the jobs under way and end the lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._wait_for_job()) is not None:
            job.run()
            # Its arrays must not live until the next job.
            del job

    def _wait_for_job(self) -> Job | None:
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
                for workload in sorted(ready, key=lambda w: w.oldest_ns()):
                    if (job := workload.take(now)) is not None:
                        return job
                if not ready:
                    self._changed.wait(None if wake_at is None else (wake_at - now) / 1e9)
            return None
