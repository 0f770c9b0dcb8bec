"""Expected batch times of one session by batch size: measured at load (measurement.py), corrected by live batches.

Only sizes in the table are run, so no request meets a size that was never run before. Guarded by the device's lock.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from resonnx_server.scheduling.measurement import Measured, smooth

# Weight of an observation in a running mean.
_DECAY: Final = 0.05
# The part of each correction, as a power, that is put down to the batch's size; the rest to the machine's load.
_OF_THE_SIZE: Final = 0.1
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
# The same for what does not depend on the machine's present load.
_LASTING_HOLDS_NS: Final = 60_000_000_000
_LASTING_FADES_IN_NS: Final = 30_000_000_000
# Time between two decays of the sizes' corrections.
_SIZES_FADE_EVERY_NS: Final = 1_000_000_000


class Freshness:
    """Age of a learnt correction, which decays without evidence.

    Without decay, one slow moment could make the server refuse every request, and no request would correct it.

    Args:
        clock: Monotonic ns.
        lasting: It holds and decays over minutes, not seconds.
    """

    __slots__ = ("_clock", "_fades_in_ns", "_holds_ns", "_holds_until_ns")

    def __init__(self, clock: Callable[[], int], *, lasting: bool = False) -> None:
        self._clock = clock
        self._holds_ns = _LASTING_HOLDS_NS if lasting else _HOLDS_NS
        self._fades_in_ns = _LASTING_FADES_IN_NS if lasting else _FADES_IN_NS
        self.renew()

    def renew(self) -> None:
        """Note that evidence has arrived now."""
        self._holds_until_ns = self._clock() + self._holds_ns

    def kept(self) -> float:
        """Return the share of the correction that still holds, 0..1; the caller forgets the rest now."""
        if (now := self._clock()) <= self._holds_until_ns:
            return 1.0
        kept = self._share(now)
        # The next call counts from here.
        self._holds_until_ns = now
        return kept

    def share(self) -> float:
        """Return the same without forgetting, for display."""
        return self._share(self._clock())

    def _share(self, now_ns: int) -> float:
        return math.exp(min(0, self._holds_until_ns - now_ns) / self._fades_in_ns)


class LastingMean:
    """A running mean; an observation counts as 4 times it, or 4 times the first value, at most.

    Args:
        first: The value before any observation; without observations the mean returns to it within minutes.
        clock: Monotonic ns.
    """

    __slots__ = ("_age", "_first", "_mean")

    def __init__(self, first: float, clock: Callable[[], int]) -> None:
        self._first = self._mean = first
        self._age = Freshness(clock, lasting=True)

    @property
    def value(self) -> float:
        """The mean."""
        self._mean = self._first + (self._mean - self._first) * self._age.kept()
        return self._mean

    def learn(self, observed: float) -> None:
        """Blend in an observation."""
        mean = self.value
        self._mean = mean + _DECAY * (min(observed, _OUTLIER * max(mean, self._first)) - mean)
        self._age.renew()


@dataclass(frozen=True)
class Cost:
    """Expected time of a batch of one size and its mean absolute deviation, ns."""

    expected_ns: float
    spread_ns: float


class LatencyTable:
    """Expected ns by batch size.

    Live batches correct it in two ways: by one factor for all sizes, the machine's present load, and less by size. The
    expected time of a size is a running mean of its batches. A batch changes load and size in a fixed proportion, so
    that neither drifts while their product stays: the cost of sizes that never run would grow without limit.

    Both corrections decay to 1 without evidence: the load from 10 s after the last batch on, by 63 % in 5 s; that of a
    size from 60 s after its last batch on, by 63 % in 30 s. So refusals cannot keep the expectation that caused them.

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
        self._measured = dict(sorted(costs.items()))
        # With the corrections by size.
        self._base = self._measured.copy()
        self._spread = dict.fromkeys(self._base, 0.0) | dict(spreads or {})
        self._load = 1.0
        self._load_age = Freshness(clock)
        self._clock = clock
        self._size_ages = {size: Freshness(clock, lasting=True) for size in self._base}
        self._sizes_fade_at_ns = clock() + _LASTING_HOLDS_NS
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
        # A standstill of the machine changes neither its speed nor the spread.
        ratio = min(ns / self.cost_ns(size), _OUTLIER)
        self._spread[size] += _DECAY * (abs(ratio - 1) - self._spread[size])
        change = 1 + _DECAY * (ratio - 1)
        self._load *= change ** (1 - _OF_THE_SIZE)
        self._base[size] *= change**_OF_THE_SIZE
        self._padded.clear()
        self._best.clear()
        self._load_age.renew()
        self._size_ages[size].renew()

    def fade(self) -> None:
        """Let the corrections decay by the time since their last evidence."""
        kept = self._load_age.kept()
        if kept < 1 and self._load != 1:
            self._load = 1 + (self._load - 1) * kept
            self._best.clear()
        if (now := self._clock()) >= self._sizes_fade_at_ns:
            self._sizes_fade_at_ns = now + _SIZES_FADE_EVERY_NS
            self._base = {size: self._lasting_ns(size, age.kept()) for size, age in self._size_ages.items()}
            self._padded.clear()
            self._best.clear()

    def _lasting_ns(self, size: int, kept: float) -> float:
        """Return a size's expected time without load if only a share of its own correction is kept."""
        measured = self._measured[size]
        return self._base[size] if kept == 1 else measured * (self._base[size] / measured) ** kept

    def cost_ns(self, size: int) -> float:
        """Return the expected time of a batch of `size`, one of `sizes`."""
        return self._base[size] * self._load

    def padded_batch_size(self, rows: int) -> int:
        """Return the size at which to run `rows` (<= largest): the smallest that holds them, or a much cheaper one."""
        if (padded := self._padded.get(rows)) is None:
            holding = [size for size in self.sizes if size >= rows]
            cheapest_ns = min([self._base[size] for size in holding])
            padded = next(size for size in holding if self._base[size] * _WORTH_PADDING <= cheapest_ns)
            self._padded[rows] = padded
        return padded

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
        smallest = self.sizes[0]
        if waiting <= smallest and limit_ns == math.inf and self._base[smallest] <= min(self._base.values()):
            # Frequent: a lone row.
            return smallest
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
        costs = {size: self._lasting_ns(size, age.share()) * load for size, age in self._size_ages.items()}
        return {size: Cost(ns, ns * self._spread[size]) for size, ns in costs.items()}

    def _as_good(self, sizes: Sequence[int], waiting: int, share: float) -> list[int]:
        rates = {size: min(waiting, size) / (self.cost_ns(size) + _HANDLING_NS) for size in sizes}
        enough = share * max(rates.values())
        return [size for size in sizes if rates[size] >= enough]
