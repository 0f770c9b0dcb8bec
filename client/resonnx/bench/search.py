"""Looks for the highest rate that keeps a bound. Pure: says what to try, and is told how it went."""

from typing import Final

# Steps while only one side of the answer is known.
_STRIDE: Final = 1.5
# The answer is known to so much; a run is hardly more exact.
_CLOSE: Final = 1.04
_MOST_RUNS: Final = 14


class RateSearch:
    """A bisection on a logarithmic scale, from both sides.

    Args:
        first: Requests a second to begin with; over 0.
    """

    def __init__(self, first: float) -> None:
        self._next = first
        self._runs = 0
        self._kept: float | None = None
        self._broken: float | None = None

    @property
    def best(self) -> float | None:
        """The highest rate that kept the bound so far."""
        return self._kept

    def propose(self) -> float | None:
        """Return the rate to try next, or None when the answer is known well enough."""
        if self._runs >= _MOST_RUNS:
            return None
        if self._kept is not None and self._broken is not None and self._broken / self._kept <= _CLOSE:
            return None
        return self._next

    def tell(self, kept: bool) -> None:
        """Say whether the proposed rate kept the bound."""
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
