"""Latencies of many calls in little memory, for their percentiles."""

import math
from typing import Final

# Bounds of the buckets grow by 2 %, from 10 µs to 16 minutes.
_GROWTH: Final = math.log(1.02)
_LEAST_NS: Final = 10_000
_BUCKETS: Final = 931


class Latencies:
    """Counts latencies by size, to 2 %. Event loop only."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self.count = 0
        self._counts: dict[int, int] = {}

    def add(self, ns: int) -> None:
        """Count a latency in ns."""
        index = min(max(0, math.ceil(math.log(max(ns, 1) / _LEAST_NS) / _GROWTH)), _BUCKETS - 1)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1

    def quantile_s(self, share: float) -> float:
        """Return the latency in s that `share` of the calls, at least one, do not exceed, up to 2 % more."""
        left = math.ceil(share * self.count)
        for index in sorted(self._counts):
            left -= self._counts[index]
            if left <= 0:
                return _LEAST_NS * math.exp(index * _GROWTH) / 1e9
        raise ValueError("no latency was counted")
