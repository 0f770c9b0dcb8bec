"""Searches for the highest rate within a latency bound; proposes rates and records the results."""

from typing import Final

# Factor between rates until the result is bracketed.
_STRIDE: Final = 1.5
# Accuracy of the result, as a factor; single runs are hardly more accurate.
_CLOSE: Final = 1.04
_MOST_RUNS: Final = 14


class RateSearch:
    """A bisection on a logarithmic scale.

    Args:
        first: The first rate, in requests per second; over 0.
    """

    def __init__(self, first: float) -> None:
        self._next = first
        self._runs = 0
        self._kept: float | None = None
        self._broken: float | None = None

    @property
    def best(self) -> float | None:
        """The highest rate within the bound so far."""
        return self._kept

    def propose(self) -> float | None:
        """Return the next rate to try, or None if the result is accurate enough."""
        if self._runs >= _MOST_RUNS:
            return None
        if self._kept is not None and self._broken is not None and self._broken / self._kept <= _CLOSE:
            return None
        return self._next

    def record(self, kept: bool) -> None:
        """Record whether the proposed rate was within the bound."""
        self._runs += 1
        if kept:
            self._kept = self._next
        else:
            self._broken = self._next
        if self._kept is None:
            self._next /= _STRIDE
        elif self._broken is None:
            self._next *= _STRIDE
        else:
            self._next = (self._kept * self._broken) ** 0.5
