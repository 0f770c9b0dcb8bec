"""Expected batch times of one session by batch size: measured at load (measurement.py), corrected by live batches.

Only sizes in the table are run, so no request meets a size that was never run before. Guarded by the device's lock.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from resonnx_server.scheduling.measurement import Measured, smooth

# Weight of a live batch's time in the running averages.
_LOAD_DECAY: Final = 0.05
_SIZE_DECAY: Final = 0.005
_SPREAD_DECAY: Final = 0.05
# Times above this multiple of the expected time are cut to it.
_OUTLIER: Final = 4
# No batch is assumed to be faster than this share of its expected time, however large the spread.
_QUICKEST: Final = 0.5
# Mean deviations that 99 of 100 deviations do not exceed (ln 50).
_MEANS_TO_P99: Final = 4
# Shares of the best throughput that count as equal: small differences between measured times are noise.
_AS_GOOD: Final = 0.97
_ABOUT_AS_GOOD: Final = 0.9
# Rows are padded beyond the smallest size that holds them if the larger size costs less than this share.
_WORTH_PADDING: Final = 0.8
# Time is short if a batch would take more than this share of it.
_SHORT_OF_TIME: Final = 1 / 16
# Time of a batch beside its run: waking a thread and the event loop, joining and splitting rows.
_HANDLING_NS: Final = 200_000
# Rows that take no longer than this wait for each other without limit.
_SHORT_NS: Final = 10_000_000
# Corrections hold this long after the last evidence, then decay with this time constant.
_HOLDS_NS: Final = 10_000_000_000
_FADES_IN_NS: Final = 5_000_000_000


class Freshness:
    """Age of a learnt correction, which decays without evidence.

    Without decay, one slow moment could make the server refuse every request, and no request would correct it.

    Args:
        clock: Monotonic ns.
    """

    __slots__ = ("_clock", "_holds_until_ns")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._holds_until_ns = clock() + _HOLDS_NS

    def renew(self) -> None:
        """Note that evidence has arrived now."""
        self._holds_until_ns = self._clock() + _HOLDS_NS

    def kept(self) -> float:
        """Return the share of the correction that still holds, 0..1; the caller forgets the rest now."""
        now = self._clock()
        kept = self._share(now)
        # The next call counts from here.
        self._holds_until_ns = max(self._holds_until_ns, now)
        return kept

    def share(self) -> float:
        """Return the same without forgetting, for display."""
        return self._share(self._clock())

    def _share(self, now_ns: int) -> float:
        return math.exp(min(0, self._holds_until_ns - now_ns) / _FADES_IN_NS)


@dataclass(frozen=True)
class Cost:
    """Expected time of a batch of one size and its mean absolute deviation, ns."""

    expected_ns: float
    spread_ns: float


class LatencyTable:
    """Expected ns by batch size.

    Live batches correct it in two ways: by one factor for all sizes, the machine's present load, which decays without
    evidence; and more slowly by size.

    Args:
        costs: ns by batch size.
        spreads: Mean absolute deviation by batch size, as a share of the cost; 0 where unknown.
        clock: Monotonic ns.
        is_measured: The costs were measured; else they are a guess.
    """

    def __init__(
        self,
        costs: Mapping[int, float],
        spreads: Mapping[int, float] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        is_measured: bool = True,
    ) -> None:
        self.is_measured = is_measured
        self._base = dict(sorted(costs.items()))
        self._spread = dict.fromkeys(self._base, 0.0) | dict(spreads or {})
        self._load = 1.0
        self._load_age = Freshness(clock)
        # Results by number of rows, valid until the next live batch.
        self._best: dict[int, int] = {}
        self._padded: dict[int, int] = {}
        self.sizes = tuple(self._base)
        self.largest = self.sizes[-1]

    @classmethod
    def of(cls, measured: Mapping[int, Measured]) -> Self:
        """Return the table of smoothed measurements."""
        medians = {size: each.median_ns for size, each in measured.items()}
        return cls(smooth(medians), {size: each.spread_ns / each.median_ns for size, each in measured.items()})

    def record(self, size: int, ns: int) -> None:
        """Blend in the time of a live batch."""
        self.fade()
        expected_ns = self.cost_ns(size)
        # A standstill of the machine changes neither its speed nor the spread.
        ns = min(ns, int(_OUTLIER * expected_ns))
        self._spread[size] += _SPREAD_DECAY * (abs(ns / expected_ns - 1) - self._spread[size])
        self._load += _LOAD_DECAY * (ns / self._base[size] - self._load)
        self._base[size] += _SIZE_DECAY * (ns / self._load - self._base[size])
        self._padded.clear()
        self._best.clear()
        self._load_age.renew()

    def fade(self) -> None:
        """Let the load factor decay by the time since the last evidence."""
        kept = self._load_age.kept()
        if kept < 1 and self._load != 1:
            self._load = 1 + (self._load - 1) * kept
            self._best.clear()

    def cost_ns(self, size: int) -> float:
        """Return the expected time of a batch of `size`, one of `sizes`."""
        return self._base[size] * self._load

    def padded_batch_size(self, rows: int) -> int:
        """Return the size at which to run `rows` (<= largest): the smallest that holds them, or a much cheaper one."""
        if rows not in self._padded:
            holding = [size for size in self.sizes if size >= rows]
            cheapest_ns = min(self._base[size] for size in holding)
            self._padded[rows] = next(size for size in holding if self._base[size] * _WORTH_PADDING <= cheapest_ns)
        return self._padded[rows]

    def time_ns(self, rows: int) -> float:
        """Return the expected time of `rows` in as few consecutive batches as possible."""
        full, rest = divmod(rows, self.largest)
        return full * self.cost_ns(self.largest) + (self.cost_ns(self.padded_batch_size(rest)) if rest else 0.0)

    def quick_ns(self, rows: int) -> float:
        """Return `time_ns` less the mean deviation."""
        spread = self._spread[self.largest if rows >= self.largest else self.padded_batch_size(rows)]
        return self.time_ns(rows) * max(1 - spread, _QUICKEST)

    def p99_ns(self, rows: int) -> float:
        """Return the time that 99 of 100 runs of `rows` do not exceed, if deviations are distributed exponentially."""
        spread = self._spread[self.largest if rows >= self.largest else self.padded_batch_size(rows)]
        return self.time_ns(rows) * (1 + _MEANS_TO_P99 * spread)

    def best_size(self, waiting: int, limit_ns: float = math.inf) -> int:
        """Return the size with the best throughput when `waiting` rows wait.

        Among sizes of about equal throughput, take the smallest if time is short, so that its rows are answered sooner;
        else the largest that is filled, as fewer batches leave more processor time to other work.

        Args:
            waiting: Rows that could run now.
            limit_ns: Time that is left; ignored if every size takes longer.
        """
        about_as_good = self._as_good(self.sizes, waiting, _ABOUT_AS_GOOD)
        if unhurried := [size for size in about_as_good if self.cost_ns(size) <= limit_ns * _SHORT_OF_TIME]:
            return max(unhurried, key=lambda size: (min(waiting, size), -size))
        in_time = [size for size in self.sizes if self.cost_ns(size) <= limit_ns]
        return min(self._as_good(in_time or self.sizes, waiting, _AS_GOOD))

    @property
    def min_efficient_batch(self) -> int:
        """The smallest size with the best throughput; below it, fixed costs dominate."""
        return min(self._as_good(self.sizes, self.largest, _AS_GOOD))

    @property
    def preferred_batch_size(self) -> int:
        """The largest size worth waiting for.

        Rows of a larger batch are answered later for little more throughput. If a single row takes long, a larger batch
        must therefore pay well.
        """
        if self._base[self.sizes[0]] <= _SHORT_NS:
            return self.largest
        return min(self._as_good(self.sizes, self.largest, _ABOUT_AS_GOOD))

    def drain_ns(self, rows: int) -> float:
        """Return the expected time of `rows` in batches of the best size."""
        waiting = min(max(rows, 1), self.largest)
        if waiting not in self._best:
            self._best[waiting] = self.best_size(waiting)
        size = self._best[waiting]
        return rows / size * self.cost_ns(size)

    def snapshot(self) -> dict[int, Cost]:
        """Return the present cost of each size. Changes nothing, so it needs no lock."""
        load = 1 + (self._load - 1) * self._load_age.share()
        costs = {size: base * load for size, base in self._base.items()}
        return {size: Cost(ns, ns * self._spread[size]) for size, ns in costs.items()}

    def _as_good(self, sizes: Sequence[int], waiting: int, share: float) -> list[int]:
        rates = {size: min(waiting, size) / (self.cost_ns(size) + _HANDLING_NS) for size in sizes}
        enough = share * max(rates.values())
        return [size for size in sizes if rates[size] >= enough]
