"""The part of a picture that a model sees, in shares of its sides: by what its pixels show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions, seen_area

from ....conftest import examples
from .picture_files import oriented


def _recipe(width: int, height: int, short_side: int = 0) -> ImageInput:
    resize = ImageInput.RESIZE_SHORT_SIDE_CROP if short_side else ImageInput.RESIZE_STRETCH
    sizes = {"width": width, "height": height, "resize_short_side": short_side}
    return ImageInput(resize=resize, filter=ImageInput.FILTER_BILINEAR, **sizes)


def _ramps(width: int, height: int) -> Image.Image:
    """A picture whose red grows from left to right and whose green grows from top to bottom, from 0 to 255."""
    across, down = ((np.arange(size) + 0.5) / size * 255 for size in (width, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.rint(across), np.rint(down)[:, np.newaxis]
    return Image.fromarray(pixels)


def _area_of(pixels: images.Pixels) -> list[float]:
    """What the middles of the outermost pixels show, moved out by half a pixel."""
    first, last = pixels[0, 0].astype(float) / 255, pixels[-1, -1].astype(float) / 255
    height, width, _ = pixels.shape
    half = [(last[axis] - first[axis]) / (size - 1) / 2 for axis, size in ((0, width), (1, height))]
    return [first[0] - half[0], first[1] - half[1], last[0] + half[0], last[1] + half[1]]


@examples(60)
@given(st.integers(30, 300), st.integers(30, 300), st.integers(20, 60), st.integers(20, 60), st.integers(0, 20))
def test_the_pixels_show_the_area(width: int, height: int, across: int, down: int, more: int) -> None:
    recipe = _recipe(across, down, max(across, down) + more)
    shown = _area_of(images.fit(_ramps(width, height), recipe))
    # Rounded to pixels, and at the edges averaged over half as many.
    assert seen_area(width, height, recipe) == pytest.approx(shown, abs=0.03)


def test_a_stretched_picture_is_seen_as_a_whole() -> None:
    assert seen_area(31, 77, _recipe(8, 8)) == (0, 0, 1, 1)


@pytest.mark.parametrize(("apply", "size"), [("apply", (40, 90)), ("ignore", (90, 40))])
def test_the_size_is_that_of_the_upright_picture(apply, size: tuple[int, int]) -> None:
    turned = oriented(6, Image.new("RGB", (90, 40)))
    told: list[tuple[int, int]] = []
    options = PictureOptions(_recipe(16, 16, 20), exif_orientation=apply)
    images.load(turned, options, on_size=told.append)
    assert told == [size]
