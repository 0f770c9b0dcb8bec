"""Reads a JPEG file's markers, to tell how much work and memory it is before any is spent."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

# Real encoders make 1 to about 20 scans. Each costs a pass over all of a progressive picture, however few bytes it has:
# 42 bytes cost 20 ms at 24 megapixels, and no decoder can be stopped in the middle.
MAX_SCANS: Final = 64

# Segments that are read one by one. Real files have fewer, large profiles and maps of depths included.
_MAX_SEGMENTS: Final = 4096
_MAX_SEGMENTS_BEFORE_SCAN: Final = 1024
# Between segments, in all; decoders skip what is there, and Pillow opens no file that has any.
_MAX_GARBAGE: Final = 4096
# What is searched at once: a call into C lets no other thread run until it returns. Some ms at worst.
_PIECE: Final = 1 << 17
_SCAN: Final = b"\xff\xda"
_EOI: Final = 0xD9
_APP1: Final = 0xE1
_EXIF: Final = b"Exif\x00\x00"
# Huffman tables, arithmetic conditions and a reserved one stand between the kinds of frames.
_NO_FRAMES: Final = (0xC4, 0xC8, 0xCC)
_PROGRESSIVE: Final = (0xC2, 0xCA)
# Of discrete cosines, and not hierarchical: what can be decoded at a fraction of its size.
_COSINES: Final = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
# What libjpeg takes for the next marker, but for those without a segment (RSTn, TEM) and those that it does not know.
_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_USUAL: Final = frozenset([*range(0xC0, 0xD0), *range(0xDA, 0xFF)])


class Frame(NamedTuple):
    """What a JPEG file says of its picture before the first scan.

    Attributes:
        coefficient_bytes: What libjpeg holds until the last scan is read; 0 where it decodes row by row.
        scalable: It can be decoded at a fraction of its size.
    """

    width: int
    height: int
    progressive: bool
    coefficient_bytes: int
    scalable: bool


def scans(encoded: bytes) -> int:
    """Return how many scans a JPEG file has, or at least how many it cannot exceed where that is few enough.

    The same two bytes occur in what is no scan: a thumbnail, a colour profile, the video behind a moving picture. So
    segments are skipped by their length, and all behind the picture's end, where there are too many to be sure.
    """
    most = _count_scans(encoded, 0)
    if most <= MAX_SCANS:
        return most
    found, position = 0, 2
    for _ in range(_MAX_SEGMENTS):
        at = _next_marker(encoded, position)
        if at is None or (kind := encoded[at + 1]) == _EOI:
            return found
        found += kind == _SCAN[1]
        start = at + 2
        position = start + max(2, int.from_bytes(encoded[start : start + 2], "big"))
    # A file of countless segments is not worth the time to tell them apart.
    return found + _count_scans(encoded, position)


def frame(encoded: bytes) -> Frame | None:
    """Return what a JPEG file says before its first scan; None if that does not come early, or makes no sense."""
    at = kind_of_frame = 0
    for kind, start in _segments(encoded):
        if kind == _SCAN[1]:
            if not at:
                return None
            # Components of one scan each: libjpeg holds them all until the last one.
            in_parts = encoded[start + 2 : start + 3] != encoded[at + 7 : at + 8]
            progressive = kind_of_frame in _PROGRESSIVE
            return Frame(
                width=int.from_bytes(encoded[at + 5 : at + 7], "big"),
                height=int.from_bytes(encoded[at + 3 : at + 5], "big"),
                progressive=progressive,
                coefficient_bytes=_coefficient_bytes(encoded, at) if progressive or in_parts else 0,
                scalable=kind_of_frame in _COSINES,
            )
        if kind <= 0xCF and kind not in _NO_FRAMES:
            if at:
                return None
            at, kind_of_frame = start, kind
    return None


def exif(encoded: bytes) -> bytes:
    """Return a JPEG file's EXIF block, from its TIFF header on; empty if there is none."""
    for kind, start in _segments(encoded):
        content = start + 2
        if kind == _APP1 and encoded.startswith(_EXIF, content):
            return encoded[content + len(_EXIF) : start + int.from_bytes(encoded[start : start + 2], "big")]
    return b""


def _segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield each segment's kind, as its marker's second byte, and where its length stands, up to the first scan."""
    position, garbage = 2, _MAX_GARBAGE
    for _ in range(_MAX_SEGMENTS_BEFORE_SCAN):
        marker = encoded[position : position + 4]
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] not in _USUAL:
            found = _MARKER.search(encoded, position, position + garbage)
            if found is None:
                return
            garbage -= found.start() - position
            position = found.start()
            marker = encoded[position : position + 4]
        kind = marker[1]
        if kind == _EOI:
            return
        yield kind, position + 2
        if kind == _SCAN[1]:
            return
        position += 2 + max(2, marker[2] << 8 | marker[3] if len(marker) == 4 else 0)


def _count_scans(encoded: bytes, position: int) -> int:
    # Each piece with the first byte of the next: a marker's two may lie on both sides.
    return sum(encoded.count(_SCAN, start, start + _PIECE + 1) for start in range(position, len(encoded), _PIECE))


def _next_marker(encoded: bytes, position: int) -> int | None:
    """Return where libjpeg's next marker stands, from `position` on."""
    for start in range(position, len(encoded), _PIECE):
        if (found := _MARKER.search(encoded, start, start + _PIECE + 1)) is not None:
            return found.start()
    return None


def _coefficient_bytes(encoded: bytes, start: int) -> int:
    """Return what all coefficients of a frame take: 64 of 2 bytes for each block of each component."""
    height, width = (int.from_bytes(encoded[start + i : start + i + 2], "big") for i in (3, 5))
    count = encoded[start + 7] if start + 7 < len(encoded) else 0
    sampling = [encoded[i] for i in range(start + 9, min(start + 9 + 3 * count, len(encoded)), 3)]
    factors = [(each >> 4 or 1, each & 15 or 1) for each in sampling]
    most_across, most_down = (max((factor[i] for factor in factors), default=1) for i in (0, 1))
    units = -(-width // (8 * most_across)) * -(-height // (8 * most_down))
    return 128 * units * sum(across * down for across, down in factors)
