"""Spreads events over time: so many at once, then so many a second."""

from collections import OrderedDict
from typing import Final

# Addresses that are told apart. One that is forgotten may send a burst again.
_KEPT: Final = 1024


class Pace:
    """The pace of one source.

    Args:
        per_s: Events a second in the long run.
        at_once: Events without delay after a pause.
    """

    __slots__ = ("_burst_s", "_due_s", "_interval_s")

    def __init__(self, per_s: float, at_once: int) -> None:
        self._interval_s = 1 / per_s
        self._burst_s = at_once / per_s
        # When the next event would be due if all came one by one.
        self._due_s = 0.0

    def delay_s(self, now_s: float, most_s: float | None = None) -> float:
        """Count an event, and return the seconds that it has to wait; not counted if that is more than `most_s`."""
        due_s = max(self._due_s, now_s - self._burst_s) + self._interval_s
        delay_s = max(0.0, due_s - now_s)
        if most_s is None or delay_s <= most_s:
            self._due_s = due_s
        return delay_s


class Paces:
    """The paces of many sources. Arguments are those of Pace."""

    def __init__(self, per_s: float, at_once: int) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._paces: OrderedDict[tuple[str, str], Pace] = OrderedDict()

    def of(self, source: tuple[str, str]) -> Pace:
        """Return the pace of a source."""
        pace = self._paces.get(source)
        if pace is None:
            pace = self._paces[source] = Pace(self._per_s, self._at_once)
            if len(self._paces) > _KEPT:
                self._paces.popitem(last=False)
        self._paces.move_to_end(source)
        return pace
