"""What a batch costs: one session's time by batch size, measured at load (that is the warm-up) and kept up to date.

Only sizes in the table are run, so no caller ever meets a first-shape stall. Guarded by the device's lock.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

# Batch sizes that are warmed and run; a batch between two of them is padded or split, as the table says.
BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Weight of a live batch's time against what is known.
_LOAD_DECAY: Final = 0.05
_SIZE_DECAY: Final = 0.005
# Sizes that a line is fitted through, at least; and how far above it a size is handled badly.
_LEAST_TO_FIT: Final = 4
_FAR_ABOVE: Final = 1.6
_REPEATS: Final = 11
# Share of the best rate from which on a size counts as as good; where throughput alone matters, small differences
# between measured times are chance.
_AS_GOOD: Final = 0.97
_ABOUT_AS_GOOD: Final = 0.9
# What a larger size must cost for rows to be padded to it, though a smaller one holds them.
_WORTH_PADDING: Final = 0.8
# Time is short where a batch would take more than this part of it: what is expected errs, and others wait behind.
_SHORT_OF_TIME: Final = 1 / 4
# What a batch costs beside its run: waking a thread and the event loop, putting rows together and taking them apart.
_HANDLING_NS: Final = 200_000
# Rows that take no longer wait for each other gladly.
_SHORT_NS: Final = 10_000_000
_ENOUGH_NS: Final = 100_000_000


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to warm for batches of at most `largest` rows; `largest` is always one of them."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def measure(run: Callable[[int], object], sizes: Iterable[int], callers: int = 1) -> dict[int, float]:
    """Run each batch size once unmeasured, then a few times; return the median ns by size.

    Sizes take turns, so that what disturbs the machine for a moment does not fall on all samples of one size.

    Args:
        run: Runs a batch of the size given.
        sizes: What to measure.
        callers: Batches that run at once, each in its own thread.
    """
    samples: dict[int, list[int]] = {size: [] for size in sizes}

    def timed(size: int) -> int:
        start = time.perf_counter_ns()
        run(size)
        return time.perf_counter_ns() - start

    with ThreadPoolExecutor(callers) as pool:
        for turn in range(_REPEATS + 1):
            for size, taken in samples.items():
                # Slow sizes vary little: one sample is enough for them, and starting should not take minutes.
                if sum(taken) < _ENOUGH_NS * callers:
                    times = list(pool.map(timed, [size] * callers))
                    taken += times if turn else []
    return {size: float(statistics.median(taken)) for size, taken in samples.items()}


def smooth(medians: Mapping[int, float]) -> dict[int, float]:
    """Return the costs that lie behind measured ones: a + b * size, fitted to relative errors.

    Measured times differ by chance, more than sizes differ in what a row costs. A size that lies far above the line is
    one that the provider handles badly; it keeps its measured cost.
    """
    sizes = np.array(list(medians), float)
    ns = np.array(list(medians.values()))
    if len(sizes) < _LEAST_TO_FIT:
        return dict(medians)
    slope, start = np.polyfit(sizes, ns, 1, w=1 / ns)
    if start < 0:
        slope, start = float(np.median(ns / sizes)), 0.0
    line = start + max(slope, 0.0) * sizes
    return {int(n): float(m if m > _FAR_ABOVE * fit else fit) for n, m, fit in zip(sizes, ns, line, strict=True)}


class LatencyTable:
    """Expected ns by batch size.

    Live batches correct it in two ways: how slow the machine is at present compared with the table, for all sizes at
    once, and more slowly each size by itself.

    Args:
        costs: ns by batch size, from `measure` and `smooth`.
    """

    def __init__(self, costs: Mapping[int, float]) -> None:
        self._base = dict(sorted(costs.items()))
        self._load = 1.0
        self._buckets: dict[int, int] = {}
        self.sizes = tuple(self._base)
        self.largest = self.sizes[-1]

    def record(self, size: int, ns: int) -> None:
        """Blend in the time of a live batch."""
        self._load += _LOAD_DECAY * (ns / self._base[size] - self._load)
        self._base[size] += _SIZE_DECAY * (ns / self._load - self._base[size])
        self._buckets.clear()

    def rescale(self, ratio: float) -> None:
        """Expect every size to take `ratio` times as long as before."""
        self._load *= ratio

    def cost_ns(self, size: int) -> float:
        """Expected time of a batch of `size`, one of `sizes`."""
        return self._base[size] * self._load

    def bucket(self, rows: int) -> int:
        """Return the size to run `rows` (<= largest) at: the smallest that holds them, or a much cheaper one."""
        if rows not in self._buckets:
            holding = [size for size in self.sizes if size >= rows]
            cheapest_ns = min(self._base[size] for size in holding)
            self._buckets[rows] = next(size for size in holding if self._base[size] * _WORTH_PADDING <= cheapest_ns)
        return self._buckets[rows]

    def time_ns(self, rows: int) -> float:
        """Expected time of `rows` one batch after another, as few as hold them."""
        full, rest = divmod(rows, self.largest)
        return full * self.cost_ns(self.largest) + (self.cost_ns(self.bucket(rest)) if rest else 0.0)

    def best_size(self, waiting: int, limit_ns: float = math.inf) -> int:
        """Return the size that serves most rows a second when `waiting` rows wait.

        Of sizes that are about as good: where time is short, the smallest, as its rows are answered sooner; else the
        largest that is filled, as fewer batches leave more of the processor to everything else.

        Args:
            waiting: Rows that could go now.
            limit_ns: Time that is left for it; ignored if every size costs more.
        """
        about_as_good = self._as_good(self.sizes, waiting, _ABOUT_AS_GOOD)
        if unhurried := [size for size in about_as_good if self.cost_ns(size) <= limit_ns * _SHORT_OF_TIME]:
            return max(unhurried, key=lambda size: (min(waiting, size), -size))
        in_time = [size for size in self.sizes if self.cost_ns(size) <= limit_ns]
        return min(self._as_good(in_time or self.sizes, waiting, _AS_GOOD))

    @property
    def worthwhile(self) -> int:
        """The smallest size that serves as many rows a second as the best; below it, fixed costs tell."""
        return min(self._as_good(self.sizes, self.largest, _AS_GOOD))

    @property
    def usual(self) -> int:
        """The largest size that rows should wait for each other in.

        Rows of a larger batch are answered later for a little more throughput. Where one alone takes long, that is
        long, too, and must pay well.
        """
        if self._base[self.sizes[0]] <= _SHORT_NS:
            return self.largest
        return min(self._as_good(self.sizes, self.largest, _ABOUT_AS_GOOD))

    def _as_good(self, sizes: Sequence[int], waiting: int, share: float) -> list[int]:
        rates = {size: min(waiting, size) / (self.cost_ns(size) + _HANDLING_NS) for size in sizes}
        enough = share * max(rates.values())
        return [size for size in sizes if rates[size] >= enough]

    def drain_ns(self, rows: int) -> float:
        """Expected time to work off `rows` at the best size."""
        size = self.best_size(max(rows, 1))
        return rows / size * self.cost_ns(size)

    def snapshot(self) -> dict[int, float]:
        """Return ns by size."""
        return {size: self.cost_ns(size) for size in self.sizes}
