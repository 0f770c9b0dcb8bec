"""Reads the first directory of a TIFF file: the picture's size, and the strips or tiles that are held whole."""

from dataclasses import dataclass
from typing import Final, Literal

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS = 256, 257, 258, 277, 278
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_READ: Final = (_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT)
_SIZES: Final = {3: 2, 4: 4}
# Real directories have some dozens of entries.
_MAX_ENTRIES: Final = 1024
_MAX_BITS: Final = 64
_MAX_SAMPLES: Final = 8
_UNREADABLE: Final = "its first directory is damaged or incomplete"


@dataclass(frozen=True)
class TiffPicture:
    """The first picture of a file.

    Attributes:
        held_bytes: Of one strip, or of one tile: the decoder holds one.
    """

    width: int
    height: int
    held_bytes: int


def read(encoded: bytes) -> TiffPicture | str:
    """Return what a TIFF file says of its first picture, or why it cannot be decoded."""
    order: Literal["little", "big"] = "little" if encoded[:1] == b"I" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(encoded[at : at + size], order)

    directory = number(4, 4)
    count = number(directory, 2)
    if not 0 < count <= _MAX_ENTRIES or directory + 2 + 12 * count > len(encoded):
        return _UNREADABLE
    told: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag = number(entry, 2)
        if tag not in _READ:
            continue
        size = _SIZES.get(number(entry + 2, 2))
        # Decoders differ in which one they believe.
        if tag in told or size is None:
            return f"its tag {tag} is given twice, or as no whole number"
        values = number(entry + 4, 4)
        at = entry + 8 if values * size <= 4 else number(entry + 8, 4)
        told[tag] = max((number(at + i * size, size) for i in range(min(values, _MAX_SAMPLES))), default=0)
    width, height = told.get(_WIDTH, 0), told.get(_HEIGHT, 0)
    bits, samples = told.get(_BITS, 1), told.get(_SAMPLES, 1)
    if bits > _MAX_BITS or samples > _MAX_SAMPLES:
        return f"a pixel of {samples} samples of {bits} bits; at most {_MAX_SAMPLES} of {_MAX_BITS} are taken"
    tile_width, tile_height = told.get(_TILE_WIDTH, 0), told.get(_TILE_HEIGHT, 0)
    if tile_width or tile_height:
        across, down = tile_width, tile_height
    else:
        across, down = width, min(told.get(_ROWS, height) or height, height)
    return TiffPicture(width, height, across * down * max(samples, 3) * max(bits, 8) // 8)
