"""Finds runs that do not end, on a thread of its own: it interrupts them, then gives their jobs up.

A run is hung after a multiple of its expected time, several seconds at least. Only time that the watchdog itself saw
pass counts, so a stopped process or a suspended machine gives up nothing. Busy event loops do not delay it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from resonnx_server.runtime.interruption import Interruption
from resonnx_server.scheduling.latency import LatencyTable

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
# Time between two looks that counts at most.
_MOST_STEP_NS: Final = 500_000_000
# An interrupted run that has not ended after this time is given up.
_ENDING_NS: Final = 1_000_000_000
# A run is hung after this multiple of the time that 99 of 100 such runs do not exceed, but not before the least limit.
_BEYOND_P99: Final = 20
_LEAST_LIMIT_NS: Final = 5_000_000_000
# The limit of runs whose time is not known: other shapes than measured, or a time that depends on values.
_UNKNOWN_LIMIT_NS: Final = 60_000_000_000


@dataclass(frozen=True)
class RunLimit:
    """The longest permitted run of one model; `timeout_s` is the model's setting `run_timeout_s`, None to derive it."""

    timeout_s: float | None = None

    def of(self, table: LatencyTable, rows: int, *, is_known: bool = True) -> int:
        """Return the limit in ns.

        Args:
            table: The session's expected times.
            rows: Rows of the run.
            is_known: The table says how long such runs take.
        """
        if self.timeout_s is not None:
            return int(self.timeout_s * 1e9)
        least = _LEAST_LIMIT_NS if is_known and table.is_measured else _UNKNOWN_LIMIT_NS
        return max(least, int(_BEYOND_P99 * table.p99_ns(rows)))


class Watched(Protocol):
    """A job, as the watchdog sees it.

    Attributes:
        moved_ns: When the latest of its runs began, by any clock; 0 for the first run.
    """

    moved_ns: int

    @property
    def has_all_cores(self) -> bool:
        """Whether it runs on threads on all of the device's cores, not only on the lane."""

    def limit_ns(self) -> int:
        """Return the longest time of one run; called with the device's lock held."""


W = TypeVar("W", bound=Watched)


@dataclass(slots=True, eq=False)
class UnderWay(Generic[W]):
    """The job of a busy lane.

    Attributes:
        job: The job.
        end_ns: Its expected end, monotonic.
        cost_ns: Its expected duration.
        runs: The lane's runs.
        owner: The workload that it belongs to.
        since_ns: When its latest run was first seen, by the watchdog's own time; None if it was not.
        moved_ns: The job's `moved_ns` then.
        is_ending: Its run was interrupted.
    """

    job: W
    end_ns: int
    cost_ns: float
    runs: Interruption
    owner: object = None
    since_ns: int | None = None
    moved_ns: int = 0
    is_ending: bool = False

    def taken_ns(self, now_ns: int, lanes: int) -> int:
        """Return the time that it has taken until `now_ns`, summed over the device's `lanes` if it uses all of them."""
        began_ns = self.end_ns - int(self.cost_ns)
        return (now_ns - began_ns) * (lanes if self.job.has_all_cores else 1)


class Watchdog(Generic[W]):
    """Watches the lanes of one device.

    Args:
        name: The device's, for thread names and logs.
        lock: The device's lock.
        clock: Monotonic ns.
        under_way: The jobs of busy lanes by thread.
        give_up: Gives up the job of a thread; called with the lock held.
    """

    def __init__(
        self,
        name: str,
        lock: threading.RLock,
        clock: Callable[[], int],
        under_way: dict[int, UnderWay[W]],
        give_up: Callable[[int], None],
    ) -> None:
        self._name, self._lock, self._clock = name, lock, clock
        self._under_way, self._give_up = under_way, give_up
        self._over = threading.Event()
        self._looked_ns: int | None = None
        self._own_ns = 0

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name=f"{self._name}-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()

    def look(self) -> None:
        """Look at all lanes once."""
        with self._lock:
            now_ns = self._clock()
            if self._looked_ns is not None:
                self._own_ns += min(now_ns - self._looked_ns, _MOST_STEP_NS)
            self._looked_ns = now_ns
            for thread, under_way in list(self._under_way.items()):
                self._look_at(thread, under_way)

    def _look_at(self, thread: int, under_way: UnderWay[W]) -> None:
        job = under_way.job
        if under_way.since_ns is None or under_way.moved_ns != job.moved_ns:
            under_way.since_ns, under_way.moved_ns = self._own_ns, job.moved_ns
            return
        beyond_ns = self._own_ns - under_way.since_ns - job.limit_ns()
        if beyond_ns > 0 and not under_way.is_ending:
            under_way.is_ending = True
            under_way.runs.end()
        elif beyond_ns > _ENDING_NS and under_way.is_ending:
            self._give_up(thread)

    def _watch(self) -> None:
        while not self._over.wait(_TICK_S):
            try:
                self.look()
            except Exception:  # it must go on watching
                _log.exception("the watchdog failed")
