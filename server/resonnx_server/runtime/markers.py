"""Reads a JPEG file's markers, to tell how much work it is before any is done."""

import re
from typing import Final

# Real encoders make 1 to about 20 scans. Each costs a pass over all of a progressive picture, however few bytes it has:
# 42 bytes cost 20 ms at 24 megapixels, and no decoder can be stopped in the middle.
MAX_SCANS: Final = 64

# Segments that are read one by one. Real files have fewer, large profiles and maps of depths included.
_MAX_SEGMENTS: Final = 4096
_MAX_SEGMENTS_BEFORE_FRAME: Final = 100
_SCAN: Final = b"\xff\xda"
_EOI: Final = 0xD9
PROGRESSIVE: Final = 0xC2
# Huffman tables, arithmetic conditions and a reserved one stand between the kinds of frames.
_NO_FRAMES: Final = (0xC4, 0xC8, 0xCC)
# What libjpeg takes for the next marker, but for those without a segment (RSTn, TEM) and those that it does not know.
_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")


def scans(encoded: bytes) -> int:
    """Return how many scans a JPEG file has, or at least how many it cannot exceed where that is few enough.

    The same two bytes occur in what is no scan: a thumbnail, a colour profile, the video behind a moving picture. So
    segments are skipped by their length, and all behind the picture's end, where there are too many to be sure.
    """
    most = encoded.count(_SCAN)
    if most <= MAX_SCANS:
        return most
    found, position = 0, 2
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(encoded, position)
        if marker is None or (kind := encoded[marker.start() + 1]) == _EOI:
            return found
        found += kind == _SCAN[1]
        start = marker.end()
        position = start + max(2, int.from_bytes(encoded[start : start + 2], "big"))
    # A file of countless segments is not worth the time to tell them apart.
    return found + encoded.count(_SCAN, position)


def frame(encoded: bytes) -> tuple[int, int]:
    """Return a JPEG file's kind of frame, as its marker's second byte, and its pixels; zeros if none comes early."""
    position = 2
    for _ in range(_MAX_SEGMENTS_BEFORE_FRAME):
        marker = _MARKER.match(encoded, position)
        if marker is None or (kind := encoded[position + 1]) == _SCAN[1]:
            break
        start = marker.end()
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAMES:
            sides = encoded[start + 3 : start + 7]
            return kind, int.from_bytes(sides[:2], "big") * int.from_bytes(sides[2:], "big")
        position = start + int.from_bytes(encoded[start : start + 2], "big")
    return 0, 0
