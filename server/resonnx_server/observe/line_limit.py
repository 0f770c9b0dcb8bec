"""Limits lines of a log, so that a flood of requests that fail cannot fill the disk."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_SECOND_NS: Final = 1_000_000_000


class LineLimit:
    """Admits at most so many lines in any second. Thread-safe.

    Args:
        per_s: Lines.
        clock: Monotonic ns.
    """

    def __init__(self, per_s: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # When the last lines were admitted.
        self._admitted: deque[int] = deque(maxlen=per_s)
        self._held_back = 0

    def admit(self) -> int | None:
        """Return how many lines were held back since the last one, or None if this one is to be held back as well."""
        with self._lock:
            now = self._clock()
            admitted = self._admitted
            if len(admitted) == admitted.maxlen and now - admitted[0] < _SECOND_NS:
                self._held_back += 1
                return None
            admitted.append(now)
            held_back, self._held_back = self._held_back, 0
            return held_back
