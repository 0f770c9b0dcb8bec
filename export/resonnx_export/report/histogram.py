"""Counts differences by their order of magnitude, and lays the bars out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from resonnx_export.proof.reference import Float

BINS_A_DECADE: Final = 4
# Smaller ones, of the greatest, are counted together: they say nothing, and would make the axis as long.
_LEAST: Final = 1e-4
_WIDTH, _HEIGHT = 720.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 24.0, 40.0
# A bar that stands for few of very many values must still be seen.
_LEAST_BAR: Final = 1.5


@dataclass(frozen=True)
class Bin:
    """How many values lie in [low, high)."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Histogram:
    """Absolute differences, counted.

    Attributes:
        bins: From small to great, on a logarithmic scale.
        total: All values, those of `bins[0]` that are 0 or next to it included.
        greatest: The greatest value.
        median: Half of the values are smaller.
        bound: What the greatest may be, and is not above.
    """

    bins: tuple[Bin, ...]
    total: int
    greatest: float
    median: float
    bound: float


def count_differences(values: Sequence[Float], bound: float) -> Histogram:
    """Count arrays of absolute differences, finite and of any shape; the first bin begins at 0."""
    flat = np.concatenate([np.zeros(0), *(np.ravel(each) for each in values)])
    if not len(flat):
        return Histogram((), 0, 0.0, 0.0, bound)
    greatest, median = float(flat.max()), float(np.median(flat))
    large = flat[flat >= max(greatest * _LEAST, np.finfo(np.float64).tiny)]
    places = np.floor(BINS_A_DECADE * np.log10(large)).astype(int)
    first = int(places.min()) if len(places) else _place(bound)
    counts = np.bincount(places - first) if len(places) else np.zeros(0, int)
    bins = [Bin(0.0, _edge(first), len(flat) - len(large))]
    bins += [Bin(_edge(first + i), _edge(first + i + 1), int(count)) for i, count in enumerate(counts)]
    return Histogram(tuple(bins), len(flat), greatest, median, bound)


def _place(value: float) -> int:
    return math.floor(BINS_A_DECADE * math.log10(value))


def _edge(place: int) -> float:
    return float(10 ** (place / BINS_A_DECADE))


@dataclass(frozen=True)
class Bar:
    """A bin as a rectangle, in the drawing's units."""

    x: float
    y: float
    width: float
    height: float
    bin: Bin


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A histogram laid out.

    Attributes:
        width, height: Of the drawing.
        left, top, bottom: Where the axes run.
        bars: One a bin.
        decades: Along the bottom.
        counts: Up the left.
        bound_x: Where the bound lies.
    """

    width: float
    height: float
    left: float
    top: float
    bottom: float
    bars: tuple[Bar, ...]
    decades: tuple[Tick, ...]
    counts: tuple[Tick, ...]
    bound_x: float


def draw(histogram: Histogram) -> Drawing:
    """Lay out a histogram that has values."""
    # The first bin stands one place before the scale begins.
    first = _place(histogram.bins[0].high * 1.0001)
    last = max(first + len(histogram.bins) - 1, math.ceil(BINS_A_DECADE * math.log10(histogram.bound)) + 1)
    step = (_WIDTH - _LEFT - _RIGHT) / (last - first + 1)
    bottom = _HEIGHT - _BOTTOM
    highest = max(bin_.count for bin_ in histogram.bins)

    def x(place: float) -> float:
        return round(_LEFT + (place - first + 1) * step, 2)

    bars = []
    for i, bin_ in enumerate(histogram.bins):
        height = max(bin_.count / highest * (bottom - _TOP), _LEAST_BAR) if bin_.count else 0.0
        bars.append(Bar(x(first + i - 1) + 1, round(bottom - height, 2), round(step - 2, 2), round(height, 2), bin_))
    return Drawing(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        top=_TOP,
        bottom=bottom,
        bars=tuple(bars),
        decades=(Tick(x(first - 0.5), "less"), *(Tick(x(place), label) for place, label in _decades(first, last))),
        counts=tuple(
            Tick(round(bottom - count / highest * (bottom - _TOP), 2), f"{count:,}") for count in _round_counts(highest)
        ),
        bound_x=x(BINS_A_DECADE * math.log10(histogram.bound)),
    )


def _decades(first: int, last: int) -> Iterator[tuple[int, str]]:
    # The bar before the scale has a label of its own.
    decades = range(math.floor(first / BINS_A_DECADE) + 1, last // BINS_A_DECADE + 1)
    for decade in decades:
        yield decade * BINS_A_DECADE, f"1e{decade}"


def _round_counts(highest: int) -> list[int]:
    """Return 0 and up to four round numbers at equal distances, `highest` at most."""
    unit = 10 ** math.floor(math.log10(highest))
    step = next(size for size in (unit // 5, unit // 2, unit, 2 * unit, 5 * unit) if size and highest / size <= 4)
    return list(range(0, highest + 1, step))
