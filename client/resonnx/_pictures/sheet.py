"""Panels of a picture with titles, joined to one image, and the part of the picture that a model saw. Needs Pillow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resonnx._results import ModelInfo

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Left, top, right and bottom.
Box = tuple[float, float, float, float]

_TEXT_HEIGHT = 24
_MARGIN = 4
# Characters of a title that may be shown.
_LONGEST = 256
_COLUMNS = 5


class NothingToDraw(Exception):
    """The result has nothing to draw, or Pillow is not installed."""


def opened(picture: bytes, model: ModelInfo) -> "Image.Image":
    """Return a picture, upright if the model takes it so. Raises NothingToDraw without Pillow, OSError."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise NothingToDraw("drawing needs Pillow: pip install 'resonnx[images]'") from None
    image = Image.open(io.BytesIO(picture))
    upright = model.pictures is not None and model.pictures.exif_orientation == "apply"
    return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")


def panel(image: "Image.Image", box: Box, side: int) -> "Image.Image":
    """Return a part of a picture, given in pixels, in its own shape, with the longer side of `side` pixels."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), box=box)


def grid_mask(values: Sequence[int], grid: tuple[int, int], size: tuple[int, int]) -> "Image.Image":
    """Return values 0 to 255 of a grid of rows and columns as an image of width and height `size`."""
    from PIL import Image

    rows, columns = grid
    return Image.frombytes("L", (columns, rows), bytes(values)).resize(size, Image.Resampling.BICUBIC)


def write_sheet(panels: Sequence[tuple[str, "Image.Image"]], file: Path) -> None:
    """Write panels of one size below their titles, which are cut where they are wider.

    The file's suffix selects the format. Raises OSError, ValueError.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = panels[0][1].size
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + _TEXT_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (text, image) in enumerate(panels):
        x, y = i % columns * width, i // columns * (height + _TEXT_HEIGHT)
        sheet.paste(image, (x, y + _TEXT_HEIGHT))
        draw.text((x + _MARGIN, y + 2), _cut(text, font, width - 2 * _MARGIN), fill="black", font=font)
    sheet.save(file)


def _cut(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> str:
    """Return a text in one line of at most this width, with dots for what is left out."""
    whole = shown = " ".join(text[:_LONGEST].split())
    while whole and font.getlength(shown) > width:
        whole = whole[:-1]
        shown = f"{whole.rstrip()}…"
    return shown
