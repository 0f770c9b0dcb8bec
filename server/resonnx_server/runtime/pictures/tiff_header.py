"""Reads the first directory of a TIFF file: the picture's size, and the memory to decode it."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS = 256, 257, 258, 277, 278
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SIZES: Final = {_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT}
# EXIF, GPS and interoperability directories, which Pillow reads as well.
_DIRECTORIES: Final = {34665, 34853, 40965}
_NUMBERS: Final = {3: 2, 4: 4}
# Bytes, text, signed bytes and undefined: Pillow makes no objects of their elements.
_OPAQUE: Final = (1, 2, 6, 7)
# Real directories have dozens of entries, and at most as many strips or tiles as rows.
_MAX_ENTRIES: Final = 256
_MAX_VALUES: Final = 1 << 16
_MAX_DIRECTORIES: Final = 4
_MAX_BITS: Final = 64
_MAX_SAMPLES: Final = 8
_UNREADABLE: Final = "its first directory is damaged or incomplete"


class _Entry(NamedTuple):
    tag: int
    kind: int
    length: int
    at: int


def read(encoded: bytes) -> tuple[int, int, int] | str:
    """Return the first picture's width and height, and the decoder's memory for a strip or tile in bytes.

    If it cannot be decoded, return the reason.
    """
    reader = _Reader(encoded)
    first = reader.number(4, 4)
    entries = list(reader.entries(first))
    if not entries or len(entries) < reader.number(first, 2):
        return _UNREADABLE
    if problem := reader.problem(first):
        return problem
    values: dict[int, int] = {}
    for entry in entries:
        if entry.tag not in _SIZES:
            continue
        # Decoders differ in which one they use.
        if entry.tag in values or entry.kind not in _NUMBERS:
            return f"its tag {entry.tag} is repeated, or not an integer"
        values[entry.tag] = max(reader.values(entry), default=0)
    width, height = values.get(_WIDTH, 0), values.get(_HEIGHT, 0)
    bits, samples = values.get(_BITS, 1), values.get(_SAMPLES, 1)
    if bits > _MAX_BITS or samples > _MAX_SAMPLES:
        return f"its pixels have {samples} samples of {bits} bits; at most {_MAX_SAMPLES} of {_MAX_BITS} are accepted"
    across, down = values.get(_TILE_WIDTH, 0), values.get(_TILE_HEIGHT, 0)
    if not (across or down):
        across, down = width, min(values.get(_ROWS, height) or height, height)
    return width, height, across * down * max(samples, 3) * max(bits, 8) // 8


class _Reader:
    """Reads directories in the file's byte order."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._order: Literal["little", "big"] = "little" if encoded[:1] == b"I" else "big"

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self._encoded[at : at + size], self._order)

    def entries(self, directory: int) -> Iterator[_Entry]:
        """Yield a directory's entries, at most _MAX_ENTRIES."""
        first, count = directory + 2, min(self.number(directory, 2), _MAX_ENTRIES)
        for at in range(first, min(first + 12 * count, len(self._encoded) - 11), 12):
            yield _Entry(self.number(at, 2), self.number(at + 2, 2), self.number(at + 4, 4), at + 8)

    def values(self, entry: _Entry) -> list[int]:
        """Return an entry's integers, at most _MAX_SAMPLES."""
        size = _NUMBERS[entry.kind]
        at = entry.at if entry.length * size <= 4 else self.number(entry.at, 4)
        return [self.number(at + i * size, size) for i in range(min(entry.length, _MAX_SAMPLES))]

    def problem(self, first: int) -> str:
        """Return why Pillow must not read the directories ("" if it may): each value becomes a Python object."""
        left, seen = [first], 0
        while left and seen < _MAX_DIRECTORIES:
            seen += 1
            directory = left.pop()
            if (entries := self.number(directory, 2)) > _MAX_ENTRIES:
                return f"a directory has {entries} entries, more than {_MAX_ENTRIES}"
            for entry in self.entries(directory):
                if entry.length > _MAX_VALUES and entry.kind not in _OPAQUE:
                    return f"its tag {entry.tag} has {entry.length} values, more than {_MAX_VALUES}"
                if entry.tag in _DIRECTORIES:
                    left.append(self.number(entry.at, 4))
        return "its directories refer to each other without end" if left else ""
