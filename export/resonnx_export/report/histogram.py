"""A histogram of absolute differences on a logarithmic scale, laid out for the template."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from resonnx_export.proof.reference import Float

BINS_A_DECADE: Final = 4
# Relative to the greatest: smaller differences are counted in one bin, to keep the axis short.
_LEAST: Final = 1e-4
_WIDTH, _HEIGHT = 720.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 24.0, 40.0
# Keeps bins with few values visible.
_LEAST_BAR: Final = 1.5


@dataclass(frozen=True)
class Bar:
    """The number of values in [low, high), as a rectangle in the drawing's units."""

    low: float
    high: float
    count: int
    x: float
    y: float
    width: float
    height: float


class Tick(NamedTuple):
    """A labelled position on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Absolute differences, counted and laid out.

    Attributes:
        total: Number of values.
        greatest, median: Of the values.
        bound: The greatest value allowed.
        bars: From small to great; the first also counts zeros.
        decades, counts: Ticks of the horizontal and the vertical axis.
        bound_x: Position of the bound.
    """

    total: int
    greatest: float
    median: float
    bound: float
    bars: tuple[Bar, ...]
    decades: tuple[Tick, ...]
    counts: tuple[Tick, ...]
    bound_x: float
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    top: float = _TOP
    bottom: float = _HEIGHT - _BOTTOM


def histogram(values: Sequence[Float], bound: float) -> Histogram | None:
    """Count arrays of absolute differences, finite and of any shape; None if there are no values."""
    flat = np.concatenate([np.zeros(0), *(np.ravel(each) for each in values)])
    if not len(flat):
        return None
    greatest = float(flat.max())
    large = flat[flat >= max(greatest * _LEAST, np.finfo(np.float64).tiny)]
    places = np.floor(BINS_A_DECADE * np.log10(large)).astype(int)
    # The scale begins here; the first bar stands one place before it.
    first = int(places.min()) if len(places) else math.floor(_place(bound))
    counts: list[int] = [len(flat) - len(large), *(np.bincount(places - first).tolist() if len(places) else ())]
    last = max(first + len(counts) - 2, math.ceil(_place(bound)) + 1)
    step = (_WIDTH - _LEFT - _RIGHT) / (last - first + 2)
    bottom, highest = _HEIGHT - _BOTTOM, max(counts)

    def x(place: float) -> float:
        return round(_LEFT + (place - first + 1) * step, 2)

    def y(count: float) -> float:
        return count / highest * (bottom - _TOP)

    bars = []
    for place, count in enumerate(counts, start=first - 1):
        height = max(y(count), _LEAST_BAR) if count else 0.0
        low = 0.0 if place < first else _edge(place)
        box = (x(place) + 1, round(bottom - height, 2), round(step - 2, 2), round(height, 2))
        bars.append(Bar(low, _edge(place + 1), count, *box))
    return Histogram(
        total=len(flat),
        greatest=greatest,
        median=float(np.median(flat)),
        bound=bound,
        bars=tuple(bars),
        decades=(Tick(x(first - 0.5), "less"), *(Tick(x(place), label) for place, label in _decades(first, last))),
        counts=tuple(Tick(round(bottom - y(count), 2), f"{count:,}") for count in _round_counts(highest)),
        bound_x=x(_place(bound)),
    )


def _place(value: float) -> float:
    return BINS_A_DECADE * math.log10(value)


def _edge(place: int) -> float:
    return float(10 ** (place / BINS_A_DECADE))


def _decades(first: int, last: int) -> Iterator[tuple[int, str]]:
    for decade in range(math.floor(first / BINS_A_DECADE) + 1, last // BINS_A_DECADE + 1):
        yield decade * BINS_A_DECADE, f"1e{decade}"


def _round_counts(highest: int) -> list[int]:
    """Return 0 and up to four round numbers at equal distances, at most `highest`."""
    unit = 10 ** math.floor(math.log10(highest))
    step = next(size for size in (unit // 5, unit // 2, unit, 2 * unit, 5 * unit) if size and highest / size <= 4)
    return list(range(0, highest + 1, step))
