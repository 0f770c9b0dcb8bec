"""Everything that decides what a picture file becomes for one model, as one object from the settings to the codecs.

A new option is a field here, where it is set (config.py), where it is told (rpc/vision/servicer.py), and what it does.
"""

from dataclasses import dataclass
from typing import Final, Literal

from resonnx_proto.v1.manifest_pb2 import ImageInput

FormatName = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF"]
ExifOrientation = Literal["apply", "ignore"]

DEFAULT_FORMATS: Final[tuple[FormatName, ...]] = ("JPEG", "PNG", "WebP", "BMP", "GIF")
# 8192 x 8192. Cameras of "64 megapixels" make 9248 x 6936.
DEFAULT_MAX_PIXELS: Final = 1 << 26
DEFAULT_MAX_SIDE: Final = 16_384
# What every model's pictures may be resized to: the largest square input, whatever is allowed to arrive.
_LEAST_RESIZED_PIXELS: Final = 1 << 24
# JPEG files of more pixels are decoded at a fraction of their size, where the model needs no more.
MAX_WHOLE_JPEG_PIXELS: Final = 24_000_000
# A reduced picture is at least so many times as large as what it is resized to. At 2, photographs keep 97 % of their
# values within 4 of the recipe's; at 3.5, 99.6 %, and drawn pictures whose details are as small as the model's
# pixels stay within 1 on average, too, which they do not at 2.5 or 3 (benchmarks/decoders.py).
LEAST_REDUCED: Final = 3.5
# They weigh few pixels or one: what a reduced picture has lost would show.
_EXACT_FILTERS: Final = (ImageInput.FILTER_NEAREST, ImageInput.FILTER_BOX)


@dataclass(frozen=True)
class PictureOptions:
    """How picture files are read for one model.

    Attributes:
        recipe: The model's input.
        jpeg_scaling: Decode JPEG files reduced wherever the model needs no more, not the largest alone.
        exif_orientation: In place of the recipe's; None keeps it.
        formats: The formats that are opened; files of others are refused.
        max_pixels: Most pixels of a picture as it arrives.
        max_side: Its longest side, in pixels.
    """

    recipe: ImageInput
    jpeg_scaling: bool = False
    exif_orientation: ExifOrientation | None = None
    formats: tuple[FormatName, ...] = DEFAULT_FORMATS
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_side: int = DEFAULT_MAX_SIDE

    @property
    def applies_exif(self) -> bool:
        """Whether pictures are turned upright."""
        if self.exif_orientation is not None:
            return self.exif_orientation == "apply"
        return self.recipe.exif_orientation == ImageInput.EXIF_ORIENTATION_APPLY

    @property
    def max_resized_pixels(self) -> int:
        """Most pixels that a picture is resized to, before it is cropped: bounds what extreme aspect ratios take."""
        return max(self.max_pixels, _LEAST_RESIZED_PIXELS)

    def divisor(self, width: int, height: int) -> int:
        """Return by how much a JPEG file of this size is reduced while it is decoded: 1, 2, 4 or 8.

        As of a picture on either side: whether it is turned is not known yet.
        """
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
