"""What a batch costs: one session's time by batch size, measured at load (that is the warm-up) and kept up to date.

Only sizes in the table are run, so no caller ever meets a first-shape stall. Guarded by the device's lock.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

# Batch sizes that are warmed and run; a batch between two of them is padded or split, as the table says.
BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Weight of a live batch's time against the table's.
_DECAY: Final = 0.05
_REPEATS: Final = 3


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to warm for batches of at most `largest` rows; `largest` is always one of them."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def measure(run: Callable[[int], object], sizes: Iterable[int]) -> dict[int, float]:
    """Run each batch size once unmeasured, then a few times; return the median ns by size."""
    medians: dict[int, float] = {}
    for size in sizes:
        run(size)
        samples = []
        for _ in range(_REPEATS):
            start = time.perf_counter_ns()
            run(size)
            samples.append(time.perf_counter_ns() - start)
        medians[size] = float(statistics.median(samples))
    return medians


class LatencyTable:
    """Expected ns by batch size.

    Args:
        medians: ns by batch size, from `measure`.
    """

    def __init__(self, medians: Mapping[int, float]) -> None:
        self._cost = dict(sorted(medians.items()))
        self.sizes = tuple(self._cost)
        self.largest = self.sizes[-1]

    def record(self, size: int, ns: int) -> None:
        """Blend in the time of a live batch."""
        self._cost[size] += _DECAY * (ns - self._cost[size])

    def cost_ns(self, size: int) -> float:
        """Expected time of a batch of `size`, one of `sizes`."""
        return self._cost[size]

    def bucket(self, rows: int) -> int:
        """Return the smallest size that holds `rows` (<= largest)."""
        return next(size for size in self.sizes if size >= rows)

    def best_size(self, waiting: int, least: int = 1) -> int:
        """Return the size that serves most rows a second when `waiting` rows wait.

        Args:
            waiting: Rows that could go now.
            least: The batch must hold at least so many (the oldest request's rows).
        """
        sizes = [size for size in self.sizes if size >= least]
        return max(sizes, key=lambda size: (min(waiting, size) / self._cost[size], -size))

    def best_size_within(self, waiting: int, least: int, limit_ns: float) -> int:
        """Return the best size whose cost is at most `limit_ns`; the best of all where none is so cheap."""
        sizes = [size for size in self.sizes if size >= least and self._cost[size] <= limit_ns]
        if not sizes:
            return self.best_size(waiting, least)
        return max(sizes, key=lambda size: (min(waiting, size) / self._cost[size], -size))

    def drain_ns(self, rows: int) -> float:
        """Expected time to work off `rows` at the best size."""
        size = self.best_size(max(rows, 1))
        return rows / size * self._cost[size]

    def snapshot(self) -> dict[int, float]:
        """Return ns by size."""
        return dict(self._cost)
