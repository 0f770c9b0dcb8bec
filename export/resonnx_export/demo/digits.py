"""The 1797 handwritten digits by 13 writers that scikit-learn distributes: their split, and pictures of them.

The held-out fifth is for measuring only, not for training or choosing models.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Sides in pixels: of the digit model's input, and of the pictures here.
INPUT_SIZE = 32
PICTURE_SIZE = 64
_MARGIN = 8
# ink uint8 [1797,8,8] and labels uint8 [1797]: scikit-learn's data, first the training part of its stratified split.
_FILE: Final = Path(__file__).with_name("digits.npz")
_TRAIN: Final = 1437


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: ink uint8 [N,s,s], 0 (paper) to 255 (full ink); labels int64 [N]."""

    ink: UInt8
    labels: Int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Int64) -> "Digits":
        return Digits(self.ink[rows], self.labels[rows])


@lru_cache(maxsize=1)
def split() -> tuple[Digits, Digits]:
    """Return (train, held-out), 1437 and 360 pictures of 8x8: the usual stratified split."""
    with np.load(_FILE) as arrays:
        every = Digits(arrays["ink"], arrays["labels"].astype(np.int64))
    return every[:_TRAIN], every[_TRAIN:]


# Interpolation leaves a grey halo around each stroke; this ramp cuts it and keeps the shades above.
_STROKE = np.array([max(0, round((level - 45) * 255 / 210)) for level in range(256)], np.uint8)


def glyph(ink: UInt8, size: int) -> UInt8:
    """Enlarge ink [s,s] to a smooth pen stroke [size,size], 0 to 255."""
    return stroke(enlarge(ink, size))


def stroke(ink: UInt8) -> UInt8:
    """Cut the halo around the strokes of interpolated ink of any shape."""
    return _STROKE[ink]


def enlarge(ink: UInt8, size: int) -> UInt8:
    """Interpolate ink [s,s] smoothly to [size,size]."""
    return np.asarray(Image.fromarray(ink).resize((size, size), Image.Resampling.BICUBIC))


def render(ink: UInt8, rng: np.random.Generator | None = None) -> UInt8:
    """Write one digit, ink [s,s], in dark ink on light paper: RGB uint8 [64,64,3].

    Without `rng` the paper is white and the ink black; with it both vary.
    """
    paper = np.full(3, 255.0) if rng is None else rng.uniform(200, 256, 3)
    pen = np.zeros(3) if rng is None else rng.uniform(0, 90, 3)
    written = np.zeros((PICTURE_SIZE, PICTURE_SIZE, 1), np.float32)
    inner = slice(_MARGIN, PICTURE_SIZE - _MARGIN)
    written[inner, inner, 0] = glyph(ink, PICTURE_SIZE - 2 * _MARGIN)
    return (paper + written * ((pen - paper) / 255)).astype(np.uint8)
