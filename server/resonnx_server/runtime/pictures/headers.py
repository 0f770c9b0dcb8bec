"""Reads a picture file's header: format, size, and memory needed to decode it.

Runs on the event loop before anything is decoded: microseconds for ordinary files, at most some milliseconds for any
bytes. The decoder must find the same size (codecs.py), so that decoding never needs more than the header announced.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from resonnx_server.runtime.pictures import avif_header, jpeg, tiff_header

_UNREADABLE: Final = "its header is damaged or incomplete"
# Limit for blocks before a GIF file's first picture; real files have a few.
_MAX_GIF_BLOCKS: Final = 4096
_RLE: Final = (1, 2)


class Header(NamedTuple):
    """A picture's header.

    Attributes:
        format: A FormatName, "raw", or "" for an unknown format.
        width: In pixels; 0 if unknown.
        height: In pixels; 0 if unknown.
        held_bytes: Decoder memory besides pixels: coefficients, strips, tiles.
        progressive: Whether it is a progressive JPEG file.
        scalable: Whether it can be decoded at a fraction of its size.
        problem: Why it cannot be decoded; "" if it can.
    """

    format: str
    width: int = 0
    height: int = 0
    held_bytes: int = 0
    progressive: bool = False
    scalable: bool = False
    problem: str = ""

    @property
    def pixels(self) -> int:
        """Pixels of the picture at full size."""
        return self.width * self.height


def header(encoded: bytes) -> Header:
    """Read a picture file's header."""
    for magic, read in _READERS:
        if encoded.startswith(magic):
            return read(encoded)
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return _webp(encoded)
    if avif_header.is_avif(encoded):
        return _of("AVIF", avif_header.read(encoded))
    return Header("")


def _jpeg(encoded: bytes) -> Header:
    return _of("JPEG", jpeg.frame(encoded) or _UNREADABLE)


def _png(encoded: bytes) -> Header:
    if encoded[12:16] != b"IHDR" or len(encoded) < 33:
        return Header("PNG", problem=_UNREADABLE)
    return Header("PNG", int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big"))


def _webp(encoded: bytes) -> Header:
    chunk = encoded[12:16]
    if len(encoded) < 30:
        return Header("WebP", problem=_UNREADABLE)
    if chunk == b"VP8X":
        return Header("WebP", _little(encoded[24:27]) + 1, _little(encoded[27:30]) + 1)
    if chunk == b"VP8L":
        bits = _little(encoded[21:25])
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 ":
        return Header("WebP", _little(encoded[26:28]) & 0x3FFF, _little(encoded[28:30]) & 0x3FFF)
    return Header("WebP", problem=_UNREADABLE)


def _bmp(encoded: bytes) -> Header:
    size = _little(encoded[14:18])
    if size == 12 and len(encoded) >= 26:
        return Header("BMP", _little(encoded[18:20]), _little(encoded[20:22]))
    if size < 40 or len(encoded) < 54:
        return Header("BMP", problem=_UNREADABLE)
    width, height = (int.from_bytes(encoded[at : at + 4], "little", signed=True) for at in (18, 22))
    # Pillow unpacks runs in Python, with the GIL held.
    problem = "run-length encoded BMP files are not accepted" if _little(encoded[30:34]) in _RLE else ""
    # A negative height means that rows are stored from the top.
    return Header("BMP", max(width, 0), abs(height), problem=problem)


def _gif(encoded: bytes) -> Header:
    """Return the size of the screen, extended by the first picture."""
    width, height = _little(encoded[6:8]), _little(encoded[8:10])
    position = 13 + _gif_table(encoded[10:11])
    in_extension = False
    for _ in range(_MAX_GIF_BLOCKS):
        kind = encoded[position : position + 1]
        if not kind:
            break
        if in_extension:
            # Blocks of up to 255 bytes; an empty one is the last.
            position += 1 + kind[0]
            in_extension = kind[0] > 0
        elif kind == b",":
            left, top, across, down = (_little(encoded[position + i : position + i + 2]) for i in (1, 3, 5, 7))
            return Header("GIF", max(width, left + across), max(height, top + down))
        elif kind == b"!":
            position += 2
            in_extension = True
        elif kind == b";":
            break
        else:
            # Like Pillow, search for the next block.
            position += 1
    return Header("GIF", problem=_UNREADABLE)


def _gif_table(flags: bytes) -> int:
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _tiff(encoded: bytes) -> Header:
    return _of("TIFF", tiff_header.read(encoded))


def _of(format_: str, found: jpeg.Frame | tuple[int, int, int] | str) -> Header:
    """Return the header for a picture, by the order of its fields, or for the reason why it cannot be decoded."""
    return Header(format_, problem=found) if isinstance(found, str) else Header(format_, *found)


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")


_READERS: Final[tuple[tuple[bytes, Callable[[bytes], Header]], ...]] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
    (b"II*\x00", _tiff),
    (b"MM\x00*", _tiff),
)
