"""Compares what the process really uses with what is charged, and returns freed memory to the system."""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from resonnx_server.memory.budget import Budget
from resonnx_server.memory.freed import give_back_memory

# Interval of the checks while memory is charged, and while none is. 10 Gbit/s bring 30 MB in the first.
_TICK_S: Final = 0.025
_IDLE_TICK_S: Final = 0.1
# Memory beyond what is charged that counts for nothing: allocators keep some, and runtimes have working memory.
ALLOWANCE: Final = 64 << 20
# Bytes that were released since the last time, from which on freed memory is returned, and the shortest interval.
_FREED: Final = 32 << 20
_INTERVAL_S: Final = 1.0
# A burst is over when no more was freed for so long, and little is charged: what was freed late is returned, too.
_CALM_S: Final = 3.0
_CALM: Final = 8 << 20
# What is left after a burst is the idle server's if nothing was charged for so long: calls that gRPC has not handed
# over, thousands after a flood, are charged as they come.
_UNUSED_S: Final = 1.0
# Memory that is kept after a burst, from which on runtimes must return theirs: the next run of each is slower for it.
_KEPT: Final = 32 << 20
# Time in which memory is freed after calls or connections were ended.
_PATIENCE_S: Final = 0.2
# Memory that is spent for longer lets connections be ended even while calls are ended.
_OVER_S: Final = 0.5


class Unclaimed(Protocol):
    """Bytes that connections have brought and that became no messages (rpc/connections/unclaimed_bytes.py)."""

    def look(self, now_s: float) -> None:
        """Forgive the bytes so far, if that is due; called while memory is not spent. `now_s` is monotonic."""

    def end_worst(self) -> int:
        """End the connections with the most such bytes, and return their number."""

    def is_quiet(self) -> bool:
        """Whether no connection has brought many such bytes."""


class MemoryWatch:
    """A thread that compares the process's memory with what is charged.

    Messages that are being received are in gRPC's memory, where nothing tells their sizes. The process's memory beyond
    that of the idle server, the part for batches and what is charged therefore counts as used (Budget.unseen). Where
    the whole is more than the budget, `evict` ends calls until it is not; if there are none, or this does not help,
    `unclaimed` ends the connections that have brought the most bytes without messages.

    Args:
        budget: The budget of requests.
        decoding: Returns the bytes that are decoded in, which the budget does not know.
        resident: Returns the memory of the process in bytes; 0 if it is not known, and nothing is evicted then.
        evict: Ends some calls that receive messages, and returns how many.
        check: Called at each check with the monotonic time in seconds.
        shrink: Makes runtimes free the memory that they keep for later runs.
        give_back: Returns freed memory to the system.
        unclaimed: Bytes of connections that became no messages; None to end no connections.
    """

    def __init__(
        self,
        budget: Budget,
        decoding: Callable[[], int],
        resident: Callable[[], int],
        evict: Callable[[], int],
        check: Callable[[float], None],
        shrink: Callable[[], None] = lambda: None,
        give_back: Callable[[], None] = give_back_memory,
        unclaimed: Unclaimed | None = None,
    ) -> None:
        self._budget = budget
        self._decoding = decoding
        self._resident = resident
        self._evict = evict
        self._check = check
        self._shrink = shrink
        self._give_back = give_back
        self._unclaimed = unclaimed
        # Since when memory is spent; None if it is not.
        self._spent_s: float | None = None
        # When calls, and connections, were last ended for lack of memory.
        self._evicted_s = self._ended_s = 0.0
        # When memory was charged last.
        self._used_s = 0.0
        # Memory of the idle server; None until all models are loaded.
        self._idle: int | None = None
        # Memory without charges after runtimes have last shrunk.
        self._left = 0
        self._peak = 0
        # When the burst that is under way will be over; None if there is none.
        self._calm_s: float | None = None
        self._is_due = False
        # Of models, under way.
        self._changes = 0
        self._lock = threading.Lock()
        self._given_back_s = 0.0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def start(self) -> None:
        """Check from now on. Memory that is not charged counts for nothing until `models_loaded`."""
        self._thread.start()

    def models_loaded(self) -> None:
        """Count memory from now on: the process is idle, and the models of the start are loaded."""
        self._give_back()
        with self._lock:
            self._idle = self._left = self._resident()

    def models_change(self) -> None:
        """Count no memory as unseen until `models_changed`: models are being loaded or freed."""
        with self._lock:
            self._changes += 1

    def models_changed(self) -> None:
        """Return freed memory, and take what the process has then as the idle server's."""
        self._give_back()
        with self._lock:
            self._changes -= 1
            if not self._changes and self._idle is not None:
                self._idle = self._left = max(0, self._uncharged() - self._decoding())

    def keep_for_batches(self, nbytes: int) -> int:
        """See Budget.keep_for_batches. So many bytes more of the process count for nothing."""
        return self._budget.keep_for_batches(nbytes)

    def close(self) -> None:
        """Stop."""
        self._is_closed = True
        self._budget.busy.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            if self.tick(time.monotonic()):
                time.sleep(_TICK_S)
            else:
                self._budget.busy.wait(_IDLE_TICK_S)

    def tick(self, now_s: float) -> bool:
        """Check once; returns whether another check is due soon. `now_s` is monotonic."""
        budget = self._budget
        if budget.used:
            self._used_s = now_s
        self._peak = max(self._peak, budget.take_peak())
        if self._peak - budget.used >= _FREED:
            self._freed(now_s)
        if not budget.used and self._calm_s is None:
            # Cleared before the last look, so that no charge is missed.
            budget.busy.clear()
            if not budget.used and not self._unseen():
                budget.unseen = 0
                self._look(now_s)
                return False
        unseen = self._unseen()
        if unseen:
            self._is_due = True
            if self._calm_s is None:
                self._calm_s = now_s + _CALM_S
        if self._is_due and now_s - self._given_back_s >= _INTERVAL_S:
            self._give_back()
            self._given_back_s, self._peak, self._is_due = now_s, budget.used, False
            unseen = self._unseen()
        if self._calm_s is not None and now_s >= self._calm_s and budget.used < _CALM:
            self._calm_s = None
            self._end_burst(now_s)
            unseen = self._unseen()
        budget.unseen = unseen
        if not unseen:
            self._look(now_s)
        if budget.used + unseen > budget.most:
            self._make_room(now_s)
        else:
            self._spent_s = None
        self._check(now_s)
        return True

    def _look(self, now_s: float) -> None:
        if self._unclaimed is not None:
            self._unclaimed.look(now_s)

    def _make_room(self, now_s: float) -> None:
        """End calls, and connections where that does not help."""
        if self._spent_s is None:
            self._spent_s = now_s
        if self._evict():
            self._evicted_s = now_s
            self._freed(now_s)
        calls_do_not_help = now_s - self._evicted_s >= _PATIENCE_S or now_s - self._spent_s >= _OVER_S
        if self._unclaimed is None or not calls_do_not_help or now_s - self._ended_s < _PATIENCE_S:
            return
        self._ended_s = now_s
        # Memory that is freed, but not yet returned to the system, must not end a connection.
        self._give_back()
        self._budget.unseen = self._unseen()
        if self._budget.used + self._budget.unseen > self._budget.most and self._unclaimed.end_worst():
            self._freed(now_s)

    def _freed(self, now_s: float) -> None:
        """Note that memory was freed, or is about to be."""
        self._is_due, self._calm_s = True, now_s + _CALM_S

    def _end_burst(self, now_s: float) -> None:
        """Return all memory of a burst that is over."""
        self._give_back()
        if self._idle is None:
            return
        is_much = self._uncharged() > self._left + _KEPT
        if is_much:
            self._shrink()
            self._give_back()
        is_unused = now_s - self._used_s >= _UNUSED_S
        if self._budget.used or not is_unused or not (self._unclaimed is None or self._unclaimed.is_quiet()):
            # Some of what is left may belong to calls under way, or to bytes that became no messages.
            return
        if is_much:
            # No less than before: runtimes that have shrunk grow again.
            self._left = max(self._left, self._uncharged())
        # What is left is the idle server's.
        self._idle = max(self._idle, self._uncharged())

    def _uncharged(self) -> int:
        return self._resident() - self._budget.used

    def _unseen(self) -> int:
        resident = self._resident()
        if not resident or self._idle is None or self._changes:
            return 0
        allowed = self._idle + self._budget.for_batches + ALLOWANCE
        return max(0, resident - allowed - self._budget.used - self._decoding())
