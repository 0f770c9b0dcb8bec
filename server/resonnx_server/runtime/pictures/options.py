"""The picture options of a model: one object from the settings to the codecs.

A new option is a field of the same name in config.py and here (also in `in_force`, if GetModel shows it), and the code
that applies it: for EXIF orientation, images.py and orientation.py.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.runtime.pictures.headers import Header

FormatName = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF"]
ExifOrientation = Literal["apply", "ignore"]
# Left, top, right and bottom of a part of a picture, in shares of its width and height.
Area = tuple[float, float, float, float]

DEFAULT_FORMATS: Final[tuple[FormatName, ...]] = ("JPEG", "PNG", "WebP", "BMP", "GIF")
# 8192 x 8192. Cameras with "64 megapixels" take 9248 x 6936.
DEFAULT_MAX_PIXELS: Final = 1 << 26
DEFAULT_MAX_SIDE: Final = 16_384
# Pictures may always be resized to so many pixels: the largest square input.
_LEAST_RESIZED_PIXELS: Final = 1 << 24
# Larger JPEG files are always decoded at reduced size, if the model needs no more.
MAX_WHOLE_JPEG_PIXELS: Final = 24_000_000
# Smallest ratio of a reduced picture's side to the resized one. At 2, 97 % of photographs' values are within 4 of the
# recipe's; at 3.5, 99.6 %, and drawings with details of one model pixel stay within 1 on average, unlike at 2.5 or 3
# (benchmarks/decoders.py).
LEAST_REDUCED: Final = 3.5
# These filters use one or few pixels, so a reduction would show.
_EXACT_FILTERS: Final = (ImageInput.FILTER_NEAREST, ImageInput.FILTER_BOX)

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


@dataclass(frozen=True)
class PictureOptions:
    """How picture files are decoded for one model.

    Attributes:
        recipe: The model's input.
        jpeg_scaling: Decode all JPEG files at reduced size if the model needs no more, not only the largest.
        exif_orientation: Replaces the recipe's; None keeps it.
        formats: Accepted formats.
        max_pixels: Largest picture before resizing, in pixels.
        max_side: Longest side before resizing, in pixels.
    """

    recipe: ImageInput
    jpeg_scaling: bool = False
    exif_orientation: ExifOrientation | None = None
    formats: tuple[FormatName, ...] = DEFAULT_FORMATS
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_side: int = DEFAULT_MAX_SIDE

    @property
    def applies_exif(self) -> bool:
        """Whether pictures are turned upright by their EXIF orientation."""
        if self.exif_orientation is not None:
            return self.exif_orientation == "apply"
        return self.recipe.exif_orientation == ImageInput.EXIF_ORIENTATION_APPLY

    @property
    def max_resized_pixels(self) -> int:
        """Largest resized picture before it is cropped, in pixels; limits the memory of extreme aspect ratios."""
        return max(self.max_pixels, _LEAST_RESIZED_PIXELS)

    def divisor(self, width: int, height: int) -> int:
        """Return the reduction of a JPEG file of this size: 1, 2, 4 or 8. Valid before and after EXIF rotation."""
        recipe = self.recipe
        whole = not self.jpeg_scaling and width * height <= MAX_WHOLE_JPEG_PIXELS
        if whole or recipe.filter in _EXACT_FILTERS:
            return 1
        if recipe.resize == ImageInput.RESIZE_STRETCH:
            most = min(width / recipe.width, height / recipe.height)
            if self.applies_exif:
                most = min(most, height / recipe.width, width / recipe.height)
        else:
            most = min(width, height) / recipe.resize_short_side
        return next((divisor for divisor in (8, 4, 2) if divisor * LEAST_REDUCED <= most), 1)

    def in_force(self) -> dict[str, Any]:
        """Return the options as GetModel shows them: the fields of resonnx.v1.PictureSettings."""
        orientation = "EXIF_ORIENTATION_APPLY" if self.applies_exif else "EXIF_ORIENTATION_IGNORE"
        return {
            "exif_orientation": orientation,
            "jpeg_scaling": self.jpeg_scaling,
            "formats": self.formats,
            "max_image_pixels": self.max_pixels,
            "max_image_side": self.max_side,
        }


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


def cropped_box(resized: tuple[int, int], recipe: ImageInput) -> tuple[int, int, int, int]:
    """Return the box of a resized picture that the model sees: left, top, right, bottom.

    Offsets are torchvision's: int(round((side - crop) / 2)). Without a crop it is the whole picture.
    """
    left, top = (round((side - seen) / 2) for side, seen in zip(resized, (recipe.width, recipe.height), strict=True))
    return left, top, left + recipe.width, top + recipe.height


def seen_area(width: int, height: int, recipe: ImageInput) -> Area:
    """Return the part of a picture that the model sees."""
    across, down = resized = resized_size(width, height, recipe)
    left, top, right, bottom = cropped_box(resized, recipe)
    return left / across, top / down, right / across, bottom / down
