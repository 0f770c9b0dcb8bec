"""Predicts from a picture's header the memory to decode and resize it."""

from typing import Final

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.options import PictureOptions

RAW: Final = "raw"
# Peak bytes per pixel of decoding and conversion to RGB, rounded up from measurements
# (tests/server/runtime/pictures/test_memory.py). Pillow stores an RGB pixel in 4 bytes; its WebP plug-in, used if
# libwebp is not found, has three canvases and a copy.
_BYTES_A_PIXEL: Final = {
    "JPEG": 8.3,
    "PNG": 12.5,
    "WebP": 18.0,
    "BMP": 8.5,
    "GIF": 8.0,
    "TIFF": 12.5,
    "AVIF": 16.0,
    RAW: 4.0,
}
# Bytes per pixel of a JPEG file besides its coefficients.
_JPEG_DECODED: Final = 4.1
# Bytes per pixel with the largest `held_bytes`: coefficients of four components, a strip of 16-bit samples, a picture
# and its alpha; and for any format, the two pictures that resizing makes.
_MOST_BYTES_A_PIXEL: Final = {"JPEG": 12.5, "TIFF": 21.0, "AVIF": 28.0}
_MOST_RESIZING: Final = 16.0
# Rows, tables, and the model's input.
_OVERHEAD: Final = 1 << 20


def decoding_bytes(header: Header, options: PictureOptions) -> int:
    """Return the peak memory of decoding and resizing a picture, in bytes."""
    divisor = options.divisor(header.width, header.height) if header.scalable else 1
    width, height = -(-header.width // divisor), -(-header.height // divisor)
    pixels = width * height
    decoded = int(_BYTES_A_PIXEL.get(header.format, 0.0) * pixels)
    if header.format == "JPEG":
        decoded = max(decoded, header.held_bytes + int(_JPEG_DECODED * pixels))
    else:
        decoded += header.held_bytes
    return _OVERHEAD + max(decoded, 4 * pixels + _resizing_bytes(width, height, options.recipe))


def most_bytes(options: PictureOptions) -> int:
    """Return the peak memory of the largest picture that the options allow, in any format, in bytes."""
    return _OVERHEAD + int(max(_worst(options), _MOST_RESIZING) * options.max_pixels)


def allowed_bytes(options: PictureOptions) -> int:
    """Return the memory limit of one picture in bytes: `most_bytes`, or resizing for a large model if that is more."""
    return _OVERHEAD + int(max(_worst(options) * options.max_pixels, _MOST_RESIZING * options.max_resized_pixels))


def _worst(options: PictureOptions) -> float:
    return max(_MOST_BYTES_A_PIXEL.get(name, _BYTES_A_PIXEL[name]) for name in (*options.formats, RAW))


def resized_size(width: int, height: int, recipe: ImageInput) -> tuple[int, int]:
    """Return width and height of the resized picture, before it is cropped.

    As in torchvision, the long side is int(short * long / short side).
    """
    if recipe.resize == ImageInput.RESIZE_STRETCH:
        return recipe.width, recipe.height
    short = recipe.resize_short_side
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)


def _resizing_bytes(width: int, height: int, recipe: ImageInput) -> int:
    # Pillow resizes horizontally first.
    across, down = resized_size(width, height, recipe) if width and height else (0, 0)
    return 4 * across * (height + down)
