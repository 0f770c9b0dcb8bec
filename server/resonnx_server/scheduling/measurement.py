"""Measures at load how long a session's batches take by size, which also warms the session up."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from resonnx_server.runtime.machine.processor_time import ProcessorTime

# Batch sizes that are warmed and run; rows between two of them are padded or split, as the latency table says.
BATCH_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_REPEATS: Final = 11
# Total time of the runs of one size after which it is not run again, by default. Twice the time allows twice the runs.
ENOUGH_NS: Final = 100_000_000
# A line is fitted through at least so many sizes; a size above it by this factor is an outlier.
_LEAST_TO_FIT: Final = 4
_FAR_ABOVE: Final = 1.6


@dataclass(frozen=True)
class Measured:
    """Median of the times of one batch size and the mean distance from it, ns."""

    median_ns: float
    spread_ns: float


@dataclass(frozen=True)
class Measurement:
    """Times by batch size, and the processor time that the process received meanwhile."""

    costs: dict[int, Measured]
    received: ProcessorTime


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to warm for batches of at most `largest` rows; `largest` is always one of them."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def measure(
    run: Callable[[int], object], sizes: Iterable[int], callers: int = 1, enough_ns: int = ENOUGH_NS
) -> Measurement:
    """Run each batch size once unmeasured, then several times, and return the times.

    Sizes take turns, so that a disturbance of the machine does not fall on all samples of one size.

    Args:
        run: Runs a batch of the given size.
        sizes: Batch sizes to measure.
        callers: Concurrent batches, each in a thread of its own.
        enough_ns: Total time of the runs of one size after which it is not run again.
    """
    samples: dict[int, list[int]] = {size: [] for size in sizes}

    def timed(size: int) -> int:
        start = time.perf_counter_ns()
        run(size)
        return time.perf_counter_ns() - start

    with ThreadPoolExecutor(callers) as pool:
        before = ProcessorTime.now()
        for turn in range(_REPEATS * enough_ns // ENOUGH_NS + 1):
            for size, taken in samples.items():
                # Slow sizes vary little: one sample is enough, or the start would take minutes.
                if sum(taken) < enough_ns * callers:
                    times = list(pool.map(timed, [size] * callers))
                    taken += times if turn else []
        # Before the callers' threads end, as their times vanish with them.
        received = ProcessorTime.now().since(before)
    return Measurement({size: _measured(taken) for size, taken in samples.items()}, received)


def _measured(samples: list[int]) -> Measured:
    median = float(statistics.median(samples))
    return Measured(median, statistics.fmean(abs(sample - median) for sample in samples))


def smooth(medians: Mapping[int, float]) -> dict[int, float]:
    """Return costs a + b * size, fitted to relative errors, as differences between measured times are mostly noise.

    A size far above the line keeps its measured cost: the provider handles it badly.
    """
    line, bad = _line(medians), far_above(medians)
    return {size: ns if size in bad else line[size] for size, ns in medians.items()}


def far_above(medians: Mapping[int, float]) -> set[int]:
    """Return sizes that cost far more than the line: handled badly, or disturbed during the measurement."""
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
