"""EXIF orientation: read from an EXIF block, and applied to a picture."""

from typing import Final, Literal

from PIL import Image

from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.jpeg import segments
from resonnx_server.runtime.pictures.webp import chunks

UPRIGHT: Final = 1
_ORIENTATION: Final = 0x0112
# Bytes of integer types. The standard demands SHORT, 3; some writers use others.
_SIZES: Final = {1: 1, 3: 2, 4: 4}
# Real blocks have dozens of tags.
_MAX_TAGS: Final = 1024
_PREFIX: Final = b"Exif\x00\x00"
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_APP1: Final = 0xE1

Box = tuple[float, float, float, float]


def orientation_of(encoded: bytes, head: Header, image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, of a picture file that was decoded to `image`."""
    if head.format == "TIFF":
        # Pillow has turned it upright.
        return UPRIGHT
    block: bytes = image.info.get("exif", b"")
    if head.format == "JPEG" and not block:
        for kind, start in segments(encoded):
            if kind == _APP1 and encoded.startswith(_PREFIX, start + 2):
                block = encoded[start + 2 : start + int.from_bytes(encoded[start : start + 2], "big")]
                break
    elif head.format == "WebP" and not block:
        block = next((encoded[start:end] for kind, start, end in chunks(encoded) if kind == b"EXIF"), b"")
    return orientation(block)


def orientation(block: bytes) -> int:
    """Return the orientation in an EXIF block, 1 (upright) to 8; 1 if it is missing or invalid."""
    block = block.removeprefix(_PREFIX)
    if block[:4] not in (b"II*\x00", b"MM\x00*"):
        return UPRIGHT
    order: Literal["little", "big"] = "little" if block[:1] == b"I" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], order)

    directory = number(4, 4)
    for i in range(min(number(directory, 2), _MAX_TAGS)):
        entry = directory + 2 + 12 * i
        if number(entry, 2) == _ORIENTATION:
            size = _SIZES.get(number(entry + 2, 2))
            value = number(entry + 8, size) if size and number(entry + 4, 4) == 1 else UPRIGHT
            return value if value in _TURNS else UPRIGHT
    return UPRIGHT


def is_on_its_side(stored: int) -> bool:
    """Return whether turning a picture of this orientation upright swaps width and height."""
    return stored >= 5


def upright(image: Image.Image, box: Box, stored: int) -> tuple[Image.Image, Box]:
    """Turn a picture of an EXIF orientation upright; returns it with `box` in its coordinates."""
    if stored not in _TURNS:
        return image, box
    width, height = image.size
    left, top, right, bottom = box
    if stored in (2, 3, 7, 8):
        left, right = width - right, width - left
    if stored in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    turned = image.transpose(_TURNS[stored])
    return turned, (top, left, bottom, right) if is_on_its_side(stored) else (left, top, right, bottom)
