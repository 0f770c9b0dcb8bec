"""Draws a caption's attention: the picture once per word, brightened by the word's attention weights. Needs Pillow."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx._results import CaptionResult, ModelInfo, Word

if TYPE_CHECKING:
    from PIL import Image

# Longer side of a panel, in pixels.
_PANEL = 192
_TEXT_HEIGHT = 24
_COLUMNS = 5
# Brightness at the lowest attention weight, as a share of the picture's.
_DARKEST = 0.15


class NothingToDraw(Exception):
    """The result has no attention weights, or Pillow is not installed."""


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
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise NothingToDraw("drawing needs Pillow: pip install 'resonnx[images]'") from None
    words = [word for word in result.captions[0].words if word.attention]
    if not words:
        raise NothingToDraw(f"model {result.model!r} returned no attention")
    base = _seen(Image.open(io.BytesIO(picture)), model)
    width, height = base.size
    rows = -(-(len(words) + 1) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width, rows * (height + _TEXT_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    panels: list[tuple[str, Any]] = [(result.model, base)]
    panels += [(word.text, _lit(base, word, result.attention_grid)) for word in words]
    for i, (text, panel) in enumerate(panels):
        x, y = i % _COLUMNS * width, i // _COLUMNS * (height + _TEXT_HEIGHT)
        sheet.paste(panel, (x, y + _TEXT_HEIGHT))
        draw.text((x + 4, y + 2), text, fill="black", font=font)
    sheet.save(file)


def _seen(image: "Image.Image", model: ModelInfo) -> "Image.Image":
    """Return the part of a picture that the model was given, in its own shape, scaled to a panel."""
    from PIL import ImageOps

    if model.pictures is not None and model.pictures.exif_orientation == "apply":
        image = ImageOps.exif_transpose(image)
    box = (0.0, 0.0, float(image.width), float(image.height))
    if model.manifest is not None and model.manifest.input.resize == ImageInput.RESIZE_SHORT_SIDE_CROP:
        recipe = model.manifest.input
        scale = min(image.size) / recipe.resize_short_side
        # Rounding could give a negative number.
        left = max(0.0, (image.width - recipe.width * scale) / 2)
        top = max(0.0, (image.height - recipe.height * scale) / 2)
        box = (left, top, image.width - left, image.height - top)
    return image.convert("RGB").resize(_panel(box[2] - box[0], box[3] - box[1]), box=box)


def _panel(width: float, height: float) -> tuple[int, int]:
    """Return the size of a panel of this shape."""
    scale = _PANEL / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _lit(base: "Image.Image", word: Word, grid: tuple[int, int]) -> "Image.Image":
    from PIL import Image

    rows, columns = grid
    least, most = min(word.attention), max(word.attention)
    span = most - least or 1.0
    light = [round(255 * (_DARKEST + (1 - _DARKEST) * (weight - least) / span)) for weight in word.attention]
    mask = Image.frombytes("L", (columns, rows), bytes(light)).resize(base.size, Image.Resampling.BICUBIC)
    return Image.composite(base, Image.new("RGB", base.size), mask)
