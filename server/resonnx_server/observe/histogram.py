"""Counts values by upper bounds, at the cost of a bisection.

prometheus_client's own histogram looks through its bounds one by one and takes two locks for each value: with three
values a request that was a tenth of a small request's time. Here the event loop owns the counts, and a scrape reads
them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.utils import floatToGoString


class Histogram:
    """One series.

    Args:
        bounds: Upper bounds, ascending; a value that equals one is counted under it.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound as Prometheus writes it, +Inf last, with how many values do not exceed it."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))
