"""Measures at load what a session's batches cost by size; that is its warm-up, too."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from resonnx_server.runtime.machine.processor_time import ProcessorTime

# Batch sizes that are warmed and run; a batch between two of them is padded or split, as the table says.
BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_REPEATS: Final = 11
# A size has been measured enough when its runs took so long in all.
_ENOUGH_NS: Final = 100_000_000
# Sizes that a line is fitted through, at least; and how far above it a size is handled badly.
_LEAST_TO_FIT: Final = 4
_FAR_ABOVE: Final = 1.6


@dataclass(frozen=True)
class Measured:
    """What runs of one batch size took, ns: their median, and the mean distance from it."""

    median_ns: float
    spread_ns: float


@dataclass(frozen=True)
class Measurement:
    """What batches cost by size, and what processor time the process got while that was measured."""

    costs: dict[int, Measured]
    received: ProcessorTime


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to warm for batches of at most `largest` rows; `largest` is always one of them."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def measure(run: Callable[[int], object], sizes: Iterable[int], callers: int = 1) -> Measurement:
    """Run each batch size once unmeasured, then a few times; return what that took by size.

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
        before = ProcessorTime.now()
        for turn in range(_REPEATS + 1):
            for size, taken in samples.items():
                # Slow sizes vary little: one sample is enough for them, and starting should not take minutes.
                if sum(taken) < _ENOUGH_NS * callers:
                    times = list(pool.map(timed, [size] * callers))
                    taken += times if turn else []
        # While the callers' threads live: what they got goes with them.
        received = ProcessorTime.now().since(before)
    return Measurement({size: _measured(taken) for size, taken in samples.items()}, received)


def _measured(samples: list[int]) -> Measured:
    median = float(statistics.median(samples))
    return Measured(median, statistics.fmean(abs(sample - median) for sample in samples))


def smooth(medians: Mapping[int, float]) -> dict[int, float]:
    """Return the costs that lie behind measured ones: a + b * size, fitted to relative errors.

    Measured times differ by chance, more than sizes differ in what a row costs. A size that lies far above the line is
    one that the provider handles badly; it keeps its measured cost.
    """
    line, bad = _line(medians), far_above(medians)
    return {size: ns if size in bad else line[size] for size, ns in medians.items()}


def far_above(medians: Mapping[int, float]) -> set[int]:
    """Return sizes that cost far more than those around them: handled badly, or disturbed while they were measured."""
    line = _line(medians)
    return {size for size, ns in medians.items() if ns > _FAR_ABOVE * line[size]}


def _line(medians: Mapping[int, float]) -> dict[int, float]:
    if len(medians) < _LEAST_TO_FIT:
        return dict(medians)
    sizes, ns = np.array(list(medians), float), np.array(list(medians.values()))
    slope, start = np.polyfit(sizes, ns, 1, w=1 / ns)
    if start < 0:
        slope, start = float(np.median(ns / sizes)), 0.0
    return {size: float(start + max(slope, 0.0) * size) for size in medians}
