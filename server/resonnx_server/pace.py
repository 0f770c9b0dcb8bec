"""The pace of events: so many at once, then so many a second."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Source = TypeVar("Source", bound=Hashable)

# Sources that are told apart. One that is forgotten may send a burst again.
_KEPT: Final = 1024
# Before every clock's first reading, by more than a burst lasts.
_LONG_AGO_NS: Final = -(1 << 62)


class Pace:
    """The pace of one source: a token bucket. Not thread-safe.

    Args:
        per_s: Events a second in the long run; more than 0.
        at_once: Events without delay after a pause; at least 1.
    """

    __slots__ = ("_burst_ns", "_due_ns", "_interval_ns")

    def __init__(self, per_s: float, at_once: float) -> None:
        # When the next event would be due if all came one by one. Whole ns: sums are exact.
        self._due_ns = _LONG_AGO_NS
        self.change(per_s, at_once)

    def change(self, per_s: float, at_once: float) -> None:
        """Set another pace. What came before counts as it did."""
        self._interval_ns = max(1, round(1e9 / per_s))
        self._burst_ns = round(at_once * self._interval_ns)

    def delay_ns(self, now_ns: int, most_ns: int | None = None) -> int:
        """Count an event, and return the time that it has to wait; not counted if that is more than `most_ns`.

        Args:
            now_ns: Monotonic ns.
            most_ns: The longest wait, in ns; None for no limit.
        """
        due_ns = max(self._due_ns, now_ns - self._burst_ns) + self._interval_ns
        delay_ns = max(0, due_ns - now_ns)
        if most_ns is None or delay_ns <= most_ns:
            self._due_ns = due_ns
        return delay_ns


class Paces(Generic[Source]):
    """The paces of many sources; the one unused for longest is forgotten."""

    def __init__(self) -> None:
        self._paces: OrderedDict[Source, tuple[float, float, Pace]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paces)

    def of(self, source: Source, per_s: float, at_once: float) -> Pace:
        """Return the pace of a source. Arguments are those of Pace; they may differ from call to call."""
        known = self._paces.get(source)
        if known is None:
            pace = Pace(per_s, at_once)
            if len(self._paces) >= _KEPT:
                self._paces.popitem(last=False)
        elif known[:2] == (per_s, at_once):
            self._paces.move_to_end(source)
            return known[2]
        else:
            pace = known[2]
            pace.change(per_s, at_once)
        self._paces[source] = per_s, at_once, pace
        self._paces.move_to_end(source)
        return pace
