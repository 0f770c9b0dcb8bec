"""Decodes and resizes a picture file, or raw pixels, to a model's uint8 input as the training preprocessing does.

Public checkpoints use `Image.open(f).convert("RGB")` and Pillow's antialiased resize. So EXIF orientation is applied
only on request, alpha is dropped, CMYK is converted by Pillow, grey is repeated, and of an animation the first frame is
used. Two differences: 16-bit grey PNG keeps its high byte, where Pillow clips it to white; large JPEG files are decoded
at reduced size (options.py).
Runs on decode threads; Pillow, simplejpeg and libwebp release the GIL.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import webp
from resonnx_server.runtime.pictures.codecs import decode_by_pillow
from resonnx_server.runtime.pictures.file_kinds import kind_of
from resonnx_server.runtime.pictures.headers import Header, header
from resonnx_server.runtime.pictures.jpeg import check_scans, decode_jpeg
from resonnx_server.runtime.pictures.options import (
    DEFAULT_MAX_PIXELS,
    PictureOptions,
    allowed_bytes,
    cropped_box,
    decoding_bytes,
    resized_size,
)
from resonnx_server.runtime.pictures.orientation import Box, is_on_its_side, orientation_of, upright

Pixels = npt.NDArray[np.uint8]
# Takes a picture's width and height.
OnSize = Callable[[tuple[int, int]], object]

_FILTERS: Final = {
    ImageInput.FILTER_BILINEAR: Image.Resampling.BILINEAR,
    ImageInput.FILTER_BICUBIC: Image.Resampling.BICUBIC,
    ImageInput.FILTER_LANCZOS: Image.Resampling.LANCZOS,
    ImageInput.FILTER_NEAREST: Image.Resampling.NEAREST,
    ImageInput.FILTER_BOX: Image.Resampling.BOX,
}


def load(
    encoded: bytes,
    options: PictureOptions,
    field: str = "image.encoded",
    head: Header | None = None,
    on_size: OnSize | None = None,
) -> Pixels:
    """Decode a picture file, apply the options, and resize it by their recipe.

    Args:
        encoded: The file.
        options: The model's picture options.
        field: The request's field, for messages.
        head: The file's header, if it was read and checked already.
        on_size: Called with its width and height, once it is decoded and turned upright if the options say so.

    Returns:
        uint8 [recipe.height, recipe.width, 3], RGB.

    Raises:
        BadImage: It is not of an allowed format, over a limit (checked before decoding), or damaged.
    """
    if head is None:
        head = header(encoded)
        check(encoded, head, options, field)
    divisor = options.divisor(head.width, head.height) if head.scalable else 1
    image = _decode(encoded, head, divisor, field)
    size = image.size
    shown: Box = (0, 0, *size)
    if divisor > 1:
        # The last row and column of a reduced picture may be covered only in part.
        size, shown = (head.width, head.height), (0, 0, head.width / divisor, head.height / divisor)
    if options.applies_exif:
        stored = orientation_of(encoded, head, image)
        image, shown = upright(image, shown, stored)
        size = size[::-1] if is_on_its_side(stored) else size
    if on_size is not None:
        on_size(size)
    return fit(image, options.recipe, field, size, shown, options.max_resized_pixels)


def decode(encoded: bytes, field: str = "image.encoded", options: PictureOptions | None = None) -> Image.Image:
    """Decode a picture file at full size to an RGB image, applying the options. Raises BadImage as `load` does."""
    options = options or PictureOptions(ImageInput())
    head = header(encoded)
    check(encoded, head, options, field)
    image = _decode(encoded, head, 1, field)
    if not options.applies_exif:
        return image
    return upright(image, (0, 0, *image.size), orientation_of(encoded, head, image))[0]


def check(encoded: bytes, head: Header, options: PictureOptions, field: str) -> None:
    """Raise BadImage if the header alone shows that a picture file must not be decoded: its format, size or memory."""
    if not head.format:
        raise BadImage(field, f"{kind_of(encoded)}; accepted formats are {_names(options)}")
    if head.format not in options.formats:
        raise BadImage(field, f"{kind_of(encoded)}, which the server's `formats` do not allow: {_names(options)}")
    if head.problem:
        raise BadImage(field, f"{kind_of(encoded)}, and {head.problem}")
    check_size(head.width, head.height, field, options)
    needed, most = decoding_bytes(head, options), allowed_bytes(options)
    if needed > most:
        raise BadImage(field, f"{kind_of(encoded)} that takes {needed} bytes to decode, more than {most}")


def check_size(width: int, height: int, field: str, options: PictureOptions) -> None:
    """Raise BadImage unless both sides and their product are within the options' limits."""
    if not (1 <= width <= options.max_side and 1 <= height <= options.max_side):
        raise BadImage(field, f"{width}x{height} pixels; a side must be within 1..{options.max_side}")
    if width * height > options.max_pixels:
        raise BadImage(field, f"{width}x{height} is {width * height} pixels, more than {options.max_pixels}")


def check_raw(rgb: bytes, width: int, height: int, field: str, options: PictureOptions) -> None:
    """Raise BadImage unless the size is within the options' limits and `rgb` has the bytes for it."""
    check_size(width, height, field, options)
    if len(rgb) != width * height * 3:
        raise BadImage(f"{field}.rgb", f"{len(rgb)} bytes; width {width} and height {height} need {width * height * 3}")


def from_raw(rgb: bytes, width: int, height: int, options: PictureOptions, field: str = "image.raw") -> Pixels:
    """Resize raw RGB pixels (rows from the top, 3 bytes a pixel) by the recipe. Returns and raises as `load` does."""
    check_raw(rgb, width, height, field, options)
    recipe = options.recipe
    pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    if (width, height) == (recipe.width, recipe.height) and leaves_as_is(recipe):
        return pixels
    return fit(Image.fromarray(pixels), recipe, field, max_pixels=options.max_resized_pixels)


def fit(
    image: Image.Image,
    recipe: ImageInput,
    field: str = "image",
    size: tuple[int, int] | None = None,
    shown: Box | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Pixels:
    """Resize and crop an RGB image by the recipe. Returns and raises as `load` does.

    A single resize with a box would be cheaper, but
    5 % of the values would differ by 1.

    Args:
        image: The picture at full or reduced size.
        recipe: The model's input.
        field: The request's field, for messages.
        size: Full size of a reduced picture; that of `image` if None.
        shown: The box of `image` that holds the picture; all of it if None.
        max_pixels: Limit for the resized picture, before it is cropped.
    """
    resample = _FILTERS[recipe.filter]
    width, height = size or image.size
    resized = resized_size(width, height, recipe)
    if resized[0] * resized[1] > max_pixels:
        raise BadImage(
            field, f"{width}x{height} would be resized to {resized[0]}x{resized[1]}, over {max_pixels} pixels"
        )
    scaled = image.resize(resized, resample, shown)
    if recipe.resize == ImageInput.RESIZE_STRETCH:
        return np.asarray(scaled)
    return np.asarray(scaled.crop(cropped_box(resized, recipe)))


def _decode(encoded: bytes, head: Header, divisor: int, field: str) -> Image.Image:
    """Return an RGB image, as it is stored in the file."""
    image = None
    if head.format == "JPEG":
        check_scans(encoded, field)
        image = decode_jpeg(encoded, divisor, (head.width, head.height), field) if head.scalable else None
    elif head.format == "WebP":
        image = webp.decode_webp(encoded, (head.width, head.height), field)
    return decode_by_pillow(encoded, head, divisor, field) if image is None else image


def _names(options: PictureOptions) -> str:
    *most, last = options.formats
    return f"{', '.join(most)} and {last}" if most else last


def leaves_as_is(recipe: ImageInput) -> bool:
    """Return whether a picture of the model's input size needs no resizing."""
    return recipe.resize == ImageInput.RESIZE_STRETCH or (recipe.resize_short_side == recipe.width == recipe.height)
