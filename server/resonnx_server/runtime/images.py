"""Turns a picture file, or raw pixels, into the uint8 pixels that a model takes, as the training recipe does.

The recipe of the public checkpoints is `Image.open(f).convert("RGB")`, then Pillow's antialiased resize. So:
EXIF orientation is not applied, alpha is dropped, CMYK goes through Pillow's conversion, grey is repeated, an
animation gives its first frame. One difference: 16-bit grey keeps its high byte, as 16-bit colour does in Pillow;
the recipe clips it to white. Runs on decode threads; Pillow and simplejpeg release the GIL.
"""

import io
import struct
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.errors import BadImage
from resonnx_server.runtime.markers import MAX_SCANS, scans

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS: Final = 24_000_000
MAX_SIDE: Final = 8192
_JPEG: Final = b"\xff\xd8\xff"
_DAMAGED: Final = "the picture file is damaged or incomplete"
# libjpeg-turbo's warning, told when all that is there has been decoded.
_INCOMPLETE: Final = "Premature end of JPEG file"
_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_FILTERS: Final = {
    ImageInput.FILTER_BILINEAR: Image.Resampling.BILINEAR,
    ImageInput.FILTER_BICUBIC: Image.Resampling.BICUBIC,
    ImageInput.FILTER_LANCZOS: Image.Resampling.LANCZOS,
    ImageInput.FILTER_NEAREST: Image.Resampling.NEAREST,
    ImageInput.FILTER_BOX: Image.Resampling.BOX,
}


def load(encoded: bytes, recipe: ImageInput, field: str = "image.encoded", *, jpeg_scaling: bool = False) -> Pixels:
    """Decode a JPEG, PNG or WebP file and resize it by `recipe`.

    Args:
        encoded: The file.
        recipe: The model's input.
        field: The request's field, for messages.
        jpeg_scaling: Decode a large JPEG file at a fraction of its size. Sharp photographs come out 0.2 to 1.1 of 255
            off the recipe's values on average, up to 21 at an edge (tested).

    Returns:
        uint8 [recipe.height, recipe.width, 3], RGB.

    Raises:
        BadImage: Not such a file, damaged, or over MAX_PIXELS, MAX_SIDE or a JPEG file's MAX_SCANS (told before
            decoding).
    """
    if jpeg_scaling and (reduced := _decode_reduced(encoded, recipe, field)) is not None:
        image, original = reduced
        return fit(image, recipe, field, original)
    return fit(decode(encoded, field), recipe, field)


def decode(encoded: bytes, field: str = "image.encoded") -> Image.Image:
    """Decode a picture file to an RGB image. Raises BadImage as `load` does."""
    if encoded.startswith(_JPEG) and (pixels := _decode_jpeg(encoded, field)) is not None:
        return Image.fromarray(pixels)
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            check_size(*image.size, field)
            image.load()
            # Alpha is dropped, a palette's too; Pillow would warn about it.
            image.info.pop("transparency", None)
            if image.mode.startswith("I"):
                return _from_16_bit_grey(image)
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise BadImage(field, f"{len(encoded)} bytes that are no JPEG, PNG or WebP file") from None
    except Image.DecompressionBombError:
        # Pillow's own limit is looser and is checked first.
        raise BadImage(field, f"the picture has more than {MAX_PIXELS} pixels") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error):
        raise BadImage(field, _DAMAGED) from None


def _decode_jpeg(encoded: bytes, field: str) -> Pixels | None:
    """Decode the JPEG files that libjpeg-turbo takes without complaint; None for the rest, which Pillow judges.

    The pixels equal Pillow's: both run libjpeg-turbo with the accurate DCT and smooth upsampling.
    """
    _check_scans(encoded, field)
    return None if _jpeg_size(encoded, field) is None else _decode_at(encoded, 0, 0, field)


def _decode_reduced(encoded: bytes, recipe: ImageInput, field: str) -> tuple[Image.Image, tuple[int, int]] | None:
    """Decode a JPEG file from its DCT's low frequencies, at 1/2, 1/4 or 1/8 of its size; None if that is too small.

    Returns:
        The picture, still twice as large as `recipe` needs it, and its full size.
    """
    if not encoded.startswith(_JPEG) or recipe.filter == ImageInput.FILTER_NEAREST:
        return None
    _check_scans(encoded, field)
    size = _jpeg_size(encoded, field)
    if size is None:
        return None
    width, height = size
    if recipe.resize == ImageInput.RESIZE_STRETCH:
        factor = min(width / recipe.width, height / recipe.height) / 2
    else:
        factor = min(size) / recipe.resize_short_side / 2
    divisor = next((divisor for divisor in (8, 4, 2) if divisor <= factor), None)
    if divisor is None:
        return None
    pixels = _decode_at(encoded, -(-width // divisor), -(-height // divisor), field)
    if pixels is None:
        return None
    return Image.fromarray(pixels), size


def _jpeg_size(encoded: bytes, field: str) -> tuple[int, int] | None:
    """Return width and height; None for what simplejpeg leaves to Pillow."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    check_size(width, height, field)
    return None if colorspace in ("CMYK", "YCCK") else (width, height)


def _decode_at(encoded: bytes, least_width: int, least_height: int, field: str) -> Pixels | None:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_width=least_width, min_height=least_height)
    except ValueError as error:
        if str(error) == _INCOMPLETE:
            # Pillow would refuse it too, after the same work.
            raise BadImage(field, _DAMAGED) from None
        return None
    return pixels


def _check_scans(encoded: bytes, field: str) -> None:
    if (found := scans(encoded)) > MAX_SCANS:
        raise BadImage(field, f"a JPEG file of {found} scans, more than {MAX_SCANS}")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    high = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
    return Image.fromarray(high).convert("RGB")


def from_raw(rgb: bytes, width: int, height: int, recipe: ImageInput, field: str = "image.raw") -> Pixels:
    """Resize raw RGB pixels (rows from the top, 3 bytes a pixel) by `recipe`; returns and raises as `load`."""
    check_size(width, height, field)
    if len(rgb) != width * height * 3:
        raise BadImage(f"{field}.rgb", f"{len(rgb)} bytes; width {width} and height {height} need {width * height * 3}")
    pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    if (width, height) == (recipe.width, recipe.height) and _leaves_as_is(recipe):
        return pixels
    return fit(Image.fromarray(pixels), recipe, field)


def check_size(width: int, height: int, field: str) -> None:
    """Raise BadImage unless 1 <= side <= MAX_SIDE and width * height <= MAX_PIXELS."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadImage(field, f"{width}x{height} pixels; a side must be within 1..{MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise BadImage(field, f"{width}x{height} is {width * height} pixels, more than {MAX_PIXELS}")


def fit(
    image: Image.Image, recipe: ImageInput, field: str = "image", original: tuple[int, int] | None = None
) -> Pixels:
    """Resize and crop an RGB image by `recipe`; returns and raises as `load`.

    `original` is the full size of a picture that was decoded at a fraction of it.

    The short-side rule is torchvision's: the long side is int(short * long / short side), the crop's offset
    int(round((side - crop) / 2)). One resize with a box would be cheaper and differs by 1 in 5 % of the values.
    """
    resample = _FILTERS[recipe.filter]
    width, height = original or image.size
    box = _extent(image, width, height)
    if recipe.resize == ImageInput.RESIZE_STRETCH:
        return np.asarray(image.resize((recipe.width, recipe.height), resample, box))
    short = recipe.resize_short_side
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImage(field, f"{width}x{height} would be resized to {size[0]}x{size[1]}, over {MAX_PIXELS} pixels")
    left = round((size[0] - recipe.width) / 2)
    top = round((size[1] - recipe.height) / 2)
    resized = image.resize(size, resample, box)
    return np.asarray(resized.crop((left, top, left + recipe.width, top + recipe.height)))


def _extent(image: Image.Image, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of `image` that shows a picture of this full size: a reduced one ends within its last pixels."""
    divisor = round(width / image.width)
    return (0, 0, width / divisor, height / divisor)


def _leaves_as_is(recipe: ImageInput) -> bool:
    return recipe.resize == ImageInput.RESIZE_STRETCH or (recipe.resize_short_side == recipe.width == recipe.height)
