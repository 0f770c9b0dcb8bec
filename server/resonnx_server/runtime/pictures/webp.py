"""Decodes WebP files with the libwebp in Pillow's wheel, without the GIL.

Pillow's plug-in copies the decoded picture with the GIL held: a file of 46 bytes and 64 megapixels would block all
threads for a quarter of a second.
"""

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
from PIL import Image

from resonnx_server.runtime.pictures.file_kinds import damaged

# Besides pictures, files have a colour profile, EXIF and XMP.
_MAX_CHUNKS: Final = 64
_FIRST_CHUNK: Final = 12
_MOVING: Final = 2
_PICTURES: Final = (b"VP8 ", b"VP8L")
# Header of an animation's frame: offset, size, duration.
_FRAME_HEAD: Final = 16


def decode_webp(encoded: bytes, size: tuple[int, int], field: str) -> Image.Image | None:
    """Decode a WebP file, or an animation's first frame; None without the library.

    The pixels equal Pillow's: transparent ones keep their colour; outside an animation's frame they are black.

    Args:
        encoded: The file.
        size: Width and height from the header.
        field: The request's field, for messages.

    Returns:
        An RGB image.

    Raises:
        BadImage: The file is damaged or incomplete.
    """
    decoder = _library()
    if decoder is None:
        return None
    is_moving = encoded[12:16] == b"VP8X" and encoded[20] & _MOVING
    if not is_moving:
        return Image.fromarray(_pixels(decoder, encoded, size, field))
    frame = next((span for kind, *span in chunks(encoded) if kind == b"ANMF"), None)
    # Later frames may be missing.
    if frame is None or 8 + _little(encoded[4:8]) > len(encoded):
        raise damaged(encoded, field)
    start, end = frame
    left, top, across, down = (_little(encoded[start + i : start + i + 3]) for i in (0, 3, 6, 9))
    left, top, across, down = 2 * left, 2 * top, across + 1, down + 1
    if left + across > size[0] or top + down > size[1]:
        raise damaged(encoded, field)
    inside = chunks(encoded, start + _FRAME_HEAD, end)
    still = next((encoded[at - 8 : past] for kind, at, past in inside if kind in _PICTURES), b"")
    still = b"RIFF" + (4 + len(still)).to_bytes(4, "little") + b"WEBP" + still
    canvas = Image.new("RGB", size)
    canvas.paste(Image.fromarray(_pixels(decoder, still, (across, down), field)), (left, top))
    return canvas


def _pixels(decoder: Any, file: bytes, size: tuple[int, int], field: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    width, height = ctypes.c_int(), ctypes.c_int()
    length = ctypes.c_size_t(len(file))
    # The size must be the announced one before memory is allocated.
    if not decoder.WebPGetInfo(file, length, ctypes.byref(width), ctypes.byref(height)):
        raise damaged(file, field)
    if (width.value, height.value) != size:
        raise damaged(file, field)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    room = (pixels.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(pixels.nbytes), pixels.strides[0])
    if not decoder.WebPDecodeRGBInto(file, length, *room):
        raise damaged(file, field)
    return pixels


def chunks(
    encoded: bytes, start: int = _FIRST_CHUNK, end: int | None = None, most: int = _MAX_CHUNKS
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, `most` of them at most, and the start and end of its content."""
    end = len(encoded) if end is None else end
    for _ in range(most):
        content = start + 8
        past = content + _little(encoded[start + 4 : content])
        if past > end or content > end:
            return
        yield encoded[start : start + 4], content, past
        # Chunks start at even offsets.
        start = past + past % 2


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")


@cache
def _library() -> Any:
    """Return libwebp; None if Pillow does not ship it as a separate file."""
    package = Path(PIL.__file__).parent
    found = [*package.parent.glob("pillow.libs/libwebp-*.so*"), *package.glob(".dylibs/libwebp.[0-9]*.dylib")]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    library.WebPDecodeRGBInto.restype = ctypes.c_void_p
    return library
