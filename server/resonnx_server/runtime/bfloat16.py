"""Numbers of the type bfloat16, which NumPy does not have: the upper halves of those of float32."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

# Two bytes that are no number to NumPy, so that no sum or comparison takes them for an integer.
BFLOAT16: Final[np.dtype[Any]] = np.dtype([("bfloat16", "<u2")], align=True)


def to_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return bfloat16 numbers as float32, exactly."""
    bits = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float32(array: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return float32 numbers, none of them NaN, as bfloat16, cut off."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16
    return bits.astype(np.uint16).view(BFLOAT16).reshape(array.shape)


def nearest(array: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return the nearest bfloat16 numbers, ties to even; beyond the largest, 3.39e38, they are infinite."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    # A NaN whose low bits are zero stays one.
    up = np.where(np.isnan(array), 0, 0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)
    return ((bits + up) >> 16).astype(np.uint16).view(BFLOAT16).reshape(array.shape)


def comparable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of any type in one that NumPy computes with."""
    return to_float32(array) if array.dtype == BFLOAT16 else array
