"""What a batch costs: one session's time by batch size, as measured at load (`measurement.py`) and kept up to date.

Only sizes in the table are run, so no caller ever meets a first-shape stall. Guarded by the device's lock.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from resonnx_server.scheduling.freshness import Freshness
from resonnx_server.scheduling.measurement import Measured, smooth

# Weight of a live batch's time against what is known.
_LOAD_DECAY: Final = 0.05
_SIZE_DECAY: Final = 0.005
_SPREAD_DECAY: Final = 0.05
# A batch that takes so much longer than expected counts as if it had taken this much longer.
_OUTLIER: Final = 4
# No batch counts on being quicker than this share of what is expected, however much their times differ.
_QUICKEST: Final = 0.5
# Share of the best rate from which on a size counts as as good; where throughput alone matters, small differences
# between measured times are chance.
_AS_GOOD: Final = 0.97
_ABOUT_AS_GOOD: Final = 0.9
# What a larger size must cost for rows to be padded to it, though a smaller one holds them.
_WORTH_PADDING: Final = 0.8
# Time is short where a batch would take more than this part of it: what is expected errs, and others wait behind.
_SHORT_OF_TIME: Final = 1 / 16
# What a batch costs beside its run: waking a thread and the event loop, putting rows together and taking them apart.
_HANDLING_NS: Final = 200_000
# Rows that take no longer wait for each other gladly.
_SHORT_NS: Final = 10_000_000


@dataclass(frozen=True)
class Cost:
    """What a batch of one size takes at present, ns: expected, and how far off that is on average."""

    expected_ns: float
    spread_ns: float


class LatencyTable:
    """Expected ns by batch size.

    Live batches correct it in two ways: how slow the machine is at present compared with the table, for all sizes at
    once, and more slowly each size by itself. The first is forgotten when no batch has told it for a while.

    Args:
        costs: ns by batch size.
        spreads: Mean absolute deviation by batch size, as a share of the cost; 0 where it is not known.
        clock: Monotonic ns.
    """

    def __init__(
        self,
        costs: Mapping[int, float],
        spreads: Mapping[int, float] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._base = dict(sorted(costs.items()))
        self._spread = dict.fromkeys(self._base, 0.0) | dict(spreads or {})
        self._load = 1.0
        self._load_age = Freshness(clock)
        # Of rows that wait, at most the largest size: what is asked for again and again between two batches.
        self._best: dict[int, int] = {}
        self._padded: dict[int, int] = {}
        self.sizes = tuple(self._base)
        self.largest = self.sizes[-1]

    @classmethod
    def of(cls, measured: Mapping[int, Measured]) -> Self:
        """Return the table that stands behind what was measured."""
        medians = {size: each.median_ns for size, each in measured.items()}
        return cls(smooth(medians), {size: each.spread_ns / each.median_ns for size, each in measured.items()})

    def record(self, size: int, ns: int) -> None:
        """Blend in the time of a live batch."""
        self.fade()
        expected_ns = self.cost_ns(size)
        # A machine that stood still for a moment is not slow, nor are its times all over the place.
        ns = min(ns, int(_OUTLIER * expected_ns))
        self._spread[size] += _SPREAD_DECAY * (abs(ns / expected_ns - 1) - self._spread[size])
        self._load += _LOAD_DECAY * (ns / self._base[size] - self._load)
        self._base[size] += _SIZE_DECAY * (ns / self._load - self._base[size])
        self._padded.clear()
        self._best.clear()
        self._load_age.renew()

    def fade(self) -> None:
        """Forget how slow the machine was, the more the longer nothing has told it."""
        kept = self._load_age.kept()
        if kept < 1 and self._load != 1:
            self._load = 1 + (self._load - 1) * kept
            self._best.clear()

    def holds(self) -> None:
        """Take note that the machine was just measured by other batches of the same model: nothing is to fade."""
        self.fade()
        self._load_age.renew()

    def rescale(self, ratio: float) -> None:
        """Expect every size to take `ratio` times as long as before, as measured just now."""
        self._load *= ratio
        self._best.clear()
        self._load_age.renew()

    def cost_ns(self, size: int) -> float:
        """Expected time of a batch of `size`, one of `sizes`."""
        return self._base[size] * self._load

    def padded_batch_size(self, rows: int) -> int:
        """Return the size to run `rows` (<= largest) at: the smallest that holds them, or a much cheaper one."""
        if rows not in self._padded:
            holding = [size for size in self.sizes if size >= rows]
            cheapest_ns = min(self._base[size] for size in holding)
            self._padded[rows] = next(size for size in holding if self._base[size] * _WORTH_PADDING <= cheapest_ns)
        return self._padded[rows]

    def time_ns(self, rows: int) -> float:
        """Expected time of `rows` one batch after another, as few as hold them."""
        full, rest = divmod(rows, self.largest)
        return full * self.cost_ns(self.largest) + (self.cost_ns(self.padded_batch_size(rest)) if rest else 0.0)

    def quick_ns(self, rows: int) -> float:
        """As `time_ns`, of batches that are as much quicker than expected as they often are."""
        spread = self._spread[self.largest if rows >= self.largest else self.padded_batch_size(rows)]
        return self.time_ns(rows) * max(1 - spread, _QUICKEST)

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
    def min_efficient_batch(self) -> int:
        """The smallest size that serves as many rows a second as the best; below it, fixed costs tell."""
        return min(self._as_good(self.sizes, self.largest, _AS_GOOD))

    @property
    def preferred_batch_size(self) -> int:
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
        waiting = min(max(rows, 1), self.largest)
        if waiting not in self._best:
            self._best[waiting] = self.best_size(waiting)
        size = self._best[waiting]
        return rows / size * self.cost_ns(size)

    def snapshot(self) -> dict[int, Cost]:
        """Return what each size takes at present. May be called without the lock: it changes nothing."""
        load = 1 + (self._load - 1) * self._load_age.share()
        costs = {size: base * load for size, base in self._base.items()}
        return {size: Cost(ns, ns * self._spread[size]) for size, ns in costs.items()}
