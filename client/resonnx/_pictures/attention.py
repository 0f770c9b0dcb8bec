"""Draws a caption's attention: the picture once per word, brightened by the word's attention weights. Needs Pillow."""

from pathlib import Path
from typing import TYPE_CHECKING

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx._pictures.sheet import Box, NothingToDraw, grid_mask, opened, panel, write_sheet
from resonnx._results import CaptionResult, ModelInfo, Word

if TYPE_CHECKING:
    from PIL import Image

# Longer side of a panel, in pixels.
_PANEL = 192
# Brightness at the lowest attention weight, as a share of the picture's.
_DARKEST = 0.15


def draw_attention(picture: bytes, result: CaptionResult, model: ModelInfo, file: Path) -> None:
    """Write an image of the best caption's words; the file's suffix selects the format.

    Args:
        picture: Contents of the picture file.
        result: Captions of the picture, with attention.
        model: The model, for its crop and EXIF orientation.
        file: The file to write.

    Raises:
        NothingToDraw: The result has no attention, or Pillow is not installed.
        OSError: The file cannot be written.
        ValueError: The suffix is unknown.
    """
    image = opened(picture, model)
    words = [word for word in result.captions[0].words if word.attention]
    if not words:
        raise NothingToDraw(f"model {result.model!r} returned no attention")
    base = panel(image, _seen(image, model), _PANEL)
    lit = [(word.text, _lit(base, word, result.attention_grid)) for word in words]
    write_sheet([(result.model, base), *lit], file)


def _seen(image: "Image.Image", model: ModelInfo) -> Box:
    """Return the part of a picture that the model was given, in pixels."""
    if model.manifest is None or model.manifest.input.resize != ImageInput.RESIZE_SHORT_SIDE_CROP:
        return 0.0, 0.0, float(image.width), float(image.height)
    recipe = model.manifest.input
    scale = min(image.size) / recipe.resize_short_side
    # Rounding could give a negative number.
    left = max(0.0, (image.width - recipe.width * scale) / 2)
    top = max(0.0, (image.height - recipe.height * scale) / 2)
    return left, top, image.width - left, image.height - top


def _lit(base: "Image.Image", word: Word, grid: tuple[int, int]) -> "Image.Image":
    from PIL import Image

    least, most = min(word.attention), max(word.attention)
    span = most - least or 1.0
    light = [round(255 * (_DARKEST + (1 - _DARKEST) * (weight - least) / span)) for weight in word.attention]
    return Image.composite(base, Image.new("RGB", base.size), grid_mask(light, grid, base.size))
