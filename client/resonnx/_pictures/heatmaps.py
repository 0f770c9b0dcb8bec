"""Draws heatmaps over the part of a picture that a model saw: red speaks for a class, blue against it. Needs Pillow."""

from pathlib import Path
from typing import TYPE_CHECKING

from resonnx._pictures.sheet import NothingToDraw, grid_mask, opened, panel, write_sheet
from resonnx._results import Classification, ModelInfo

if TYPE_CHECKING:
    from PIL import Image

# Longer side of a panel, in pixels.
_PANEL = 320
# Opacity of the colour where the value is largest.
_STRONGEST = 0.75


def draw_heatmaps(picture: bytes, result: Classification, model: ModelInfo, file: Path) -> None:
    """Write an image of the picture and of each prediction's heatmap over it, in colours of one scale.

    Args:
        picture: Contents of the picture file.
        result: Its classes, with heatmaps.
        model: The model, for its EXIF orientation.
        file: The file to write; its suffix selects the format.

    Raises:
        NothingToDraw: The result has no heatmaps, or Pillow is not installed.
        OSError: The file cannot be written.
        ValueError: The suffix is unknown.
    """
    image = opened(picture, model)
    shown = [each for each in result.predictions if each.heatmap]
    if not shown:
        raise NothingToDraw(f"model {result.model!r} returned no heatmaps")
    left, top, right, bottom = result.heatmap_area
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    base = panel(image, box, _PANEL)
    most = max(abs(value) for each in shown for value in each.heatmap) or 1.0
    tinted = [
        (f"{each.score:.2f} {each.label}", _tinted(base, each.heatmap, result.heatmap_grid, most)) for each in shown
    ]
    write_sheet([(result.model, base), *tinted], file)


def _tinted(base: "Image.Image", values: tuple[float, ...], grid: tuple[int, int], most: float) -> "Image.Image":
    from PIL import Image

    tinted = base
    for colour, sign in (("red", 1), ("blue", -1)):
        opacity = [round(255 * _STRONGEST * max(0.0, sign * value) / most) for value in values]
        tinted = Image.composite(Image.new("RGB", base.size, colour), tinted, grid_mask(opacity, grid, base.size))
    return tinted
