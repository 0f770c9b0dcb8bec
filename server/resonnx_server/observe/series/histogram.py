"""Histograms with fixed buckets, and the traces of some of their values."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

# Each bucket is a series of each model. Seconds of whole requests are fine enough to read a 99th percentile from them.
LATENCIES: Final = (
    0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
# Seconds of their stages tell where the time goes.
STAGES: Final = (0.00025, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
ROWS: Final = (1, 2, 4, 8, 16, 32)

# Upper bound, cumulative count, and the trace of the last value that had one.
Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Histogram:
    """One series. `bounds` are inclusive upper bounds, ascending.

    prometheus_client's searches its bounds linearly and takes two locks a value: a tenth of a small request's time.

    Args:
        bounds: The bounds.
        clock: POSIX seconds.
    """

    __slots__ = ("_bounds", "_clock", "_counts", "_exemplars", "sum")

    def __init__(self, bounds: Sequence[float], clock: Callable[[], float] = time.time) -> None:
        self._bounds = bounds
        self._clock = clock
        self._counts = [0] * (len(bounds) + 1)
        # By bucket.
        self._exemplars: dict[int, Exemplar] = {}
        self.sum = 0.0

    def observe(self, amount: float, trace_id: str | None = None) -> None:
        """Count one value; with the id of a trace, keep it as its bucket's example."""
        bucket = bisect_left(self._bounds, amount)
        self._counts[bucket] += 1
        self.sum += amount
        if trace_id is not None:
            self._exemplars[bucket] = Exemplar({"trace_id": trace_id}, amount, self._clock())

    def add(self, counts: Sequence[int], total: float) -> None:
        """Count many values: how many are in each bucket, the last beyond all bounds, and their sum."""
        self._counts = [had + more for had, more in zip(self._counts, counts, strict=True)]
        self.sum += total

    def buckets(self) -> list[Bucket]:
        """Return the cumulative count for each bound, which is written as Prometheus does; +Inf is the last."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        counts = map(float, accumulate(self._counts))
        buckets: list[Bucket] = list(zip(names, counts, strict=True))
        for bucket, exemplar in self._exemplars.items():
            buckets[bucket] = (*buckets[bucket][:2], exemplar)
        return buckets
