"""Takes sizes and numbers out of configuration files, whose values may be anything."""

from collections.abc import Mapping
from typing import Any, Final

from resonnx_export.pictures.recipe import FilterName, Size

# Pillow's numbers of its filters, as transformers writes them.
FILTERS: Final[Mapping[Any, FilterName]] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
_LONGEST_SIDE: Final = 100_000
_LEAST_FRACTION: Final = 1e-3
_GREATEST: Final = 1e6


def side(value: object) -> int | None:
    """Return a length in pixels; None if the value is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LONGEST_SIDE:
        return value
    return None


def fraction(value: object) -> float | None:
    """Return a number from 0.001 to 1; None if the value is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and _LEAST_FRACTION <= value <= 1:
        return float(value)
    return None


def height_and_width(value: object) -> Size | None:
    """Return {"height": H, "width": W}, or a number for both; None if the value is neither."""
    sides = (value.get("height"), value.get("width")) if isinstance(value, Mapping) else (value, value)
    height, width = map(side, sides)
    return None if height is None or width is None else Size(height, width)


def channels(value: object) -> tuple[float, float, float] | None:
    """Return three numbers, or one for three channels; None if the value is neither."""
    if not isinstance(value, list) or not all(isinstance(each, int | float) for each in value):
        return None
    # Whole numbers in JSON may be too large for a float; NaN is in no order.
    if not all(abs(each) <= _GREATEST for each in value):
        return None
    numbers = value * 3 if len(value) == 1 else value
    return (float(numbers[0]), float(numbers[1]), float(numbers[2])) if len(numbers) == 3 else None
