"""JPEG files: the work and memory that decoding takes, by their markers, and decoding by libjpeg-turbo.

Pillow decodes the files that libjpeg-turbo warns about.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.file_kinds import damaged

# Encoders write 1 to about 20 scans. Each costs a pass over a whole progressive picture: 42 bytes cost 20 ms at 24
# megapixels, and decoders cannot be stopped.
MAX_SCANS: Final = 64

# Segments that are read one by one. Real files have fewer, even with large profiles and depth maps.
_MAX_SEGMENTS: Final = 4096
_MAX_SEGMENTS_BEFORE_SCAN: Final = 1024
# Total bytes between segments. Decoders skip them; Pillow rejects such files.
_MAX_GARBAGE: Final = 4096
# Bytes of one search, some ms at worst: it holds the GIL.
_PIECE: Final = 1 << 17
_SCAN: Final = b"\xff\xda"
_EOI: Final = 0xD9
# Huffman tables, arithmetic conditions and a reserved code lie among the frames' codes.
_NO_FRAMES: Final = (0xC4, 0xC8, 0xCC)
_PROGRESSIVE: Final = (0xC2, 0xCA)
# DCT frames, not hierarchical: they can be decoded at a fraction of their size.
_COSINES: Final = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
# Markers with a segment that libjpeg knows: all but RSTn, TEM and reserved ones.
_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_USUAL: Final = frozenset([*range(0xC0, 0xD0), *range(0xDA, 0xFF)])

# libjpeg-turbo's warning at the end of a truncated file.
_INCOMPLETE: Final = "Premature end of JPEG file"
_LEFT_TO_PILLOW: Final = ("CMYK", "YCCK")


def check_scans(encoded: bytes, field: str) -> None:
    """Raise BadImage if a JPEG file has more than MAX_SCANS scans."""
    if (found := scans(encoded)) > MAX_SCANS:
        raise BadImage(field, f"a JPEG file of {found} scans, more than {MAX_SCANS}")


def decode_jpeg(encoded: bytes, divisor: int, size: tuple[int, int], field: str) -> Image.Image | None:
    """Decode a JPEG file; None if Pillow must try it.

    The pixels equal Pillow's: both use libjpeg-turbo with the accurate DCT and smooth upsampling, and drop high
    frequencies to reduce a picture.

    Args:
        encoded: The file.
        divisor: Reduction of both sides: 1, 2, 4 or 8.
        size: Full width and height from the header.
        field: The request's field, for messages.

    Returns:
        An RGB image; sides of a reduced one are rounded up.

    Raises:
        BadImage: The file is truncated.
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    if colorspace in _LEFT_TO_PILLOW or (width, height) != size:
        return None
    least = (0, 0) if divisor == 1 else (-(-width // divisor), -(-height // divisor))
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "RGB", min_width=least[0], min_height=least[1])
    except ValueError as error:
        if str(error) == _INCOMPLETE:
            # Pillow would refuse it too, after the same work.
            raise damaged(encoded, field) from None
        return None
    return Image.fromarray(pixels)


class Frame(NamedTuple):
    """A JPEG file's frame header, in the order of Header's fields.

    Attributes:
        coefficient_bytes: Memory that libjpeg needs until the last scan; 0 if it decodes row by row.
        scalable: Whether it can be decoded at a fraction of its size.
    """

    width: int
    height: int
    coefficient_bytes: int
    progressive: bool
    scalable: bool


def scans(encoded: bytes) -> int:
    """Return the number of scans in a JPEG file, or an upper bound if that is at most MAX_SCANS.

    The marker's two bytes also occur in thumbnails, colour profiles and data behind the picture. So if a plain count is
    too high, segments are skipped by their length, up to the picture's end.
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
    # Too many segments to read one by one: fall back to the plain count.
    return found + _count_scans(encoded, position)


def frame(encoded: bytes) -> Frame | None:
    """Return a JPEG file's frame header; None if it is missing, too late or invalid."""
    at = kind_of_frame = 0
    for kind, start in segments(encoded):
        if kind == _SCAN[1]:
            if not at:
                return None
            # Components in separate scans: libjpeg keeps all coefficients until the last scan.
            in_parts = encoded[start + 2 : start + 3] != encoded[at + 7 : at + 8]
            progressive = kind_of_frame in _PROGRESSIVE
            return Frame(
                width=int.from_bytes(encoded[at + 5 : at + 7], "big"),
                height=int.from_bytes(encoded[at + 3 : at + 5], "big"),
                coefficient_bytes=_coefficient_bytes(encoded, at) if progressive or in_parts else 0,
                progressive=progressive,
                scalable=kind_of_frame in _COSINES,
            )
        if kind <= 0xCF and kind not in _NO_FRAMES:
            if at:
                return None
            at, kind_of_frame = start, kind
    return None


def segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield the second marker byte and the position of the length of each segment, up to the first scan."""
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
    # One byte of overlap: a marker's two bytes may lie in two pieces.
    return sum(encoded.count(_SCAN, start, start + _PIECE + 1) for start in range(position, len(encoded), _PIECE))


def _next_marker(encoded: bytes, position: int) -> int | None:
    """Return the position of the next marker, as libjpeg finds it."""
    for start in range(position, len(encoded), _PIECE):
        if (found := _MARKER.search(encoded, start, start + _PIECE + 1)) is not None:
            return found.start()
    return None


def _coefficient_bytes(encoded: bytes, start: int) -> int:
    """Return the memory of all coefficients of a frame: 64 of 2 bytes for each block of each component."""
    height, width = (int.from_bytes(encoded[start + i : start + i + 2], "big") for i in (3, 5))
    count = encoded[start + 7] if start + 7 < len(encoded) else 0
    sampling = [encoded[i] for i in range(start + 9, min(start + 9 + 3 * count, len(encoded)), 3)]
    factors = [(each >> 4 or 1, each & 15 or 1) for each in sampling]
    most_across, most_down = (max((factor[i] for factor in factors), default=1) for i in (0, 1))
    units = -(-width // (8 * most_across)) * -(-height // (8 * most_down))
    return 128 * units * sum(across * down for across, down in factors)
