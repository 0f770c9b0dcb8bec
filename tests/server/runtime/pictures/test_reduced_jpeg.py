"""JPEG files that are decoded at a fraction of their size: how near the recipe they stay, and where that is done."""

import numpy as np
import pytest
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import MAX_WHOLE_JPEG_PIXELS, PictureOptions
from sklearn.datasets import load_sample_images

from .picture_files import file, photograph

CROP, STRETCH = ImageInput.RESIZE_SHORT_SIDE_CROP, ImageInput.RESIZE_STRETCH


def _recipe(side: int, resize: ImageInput.Resize = CROP, filter: str = "BILINEAR") -> ImageInput:
    kind = ImageInput.Filter.Value(f"FILTER_{filter}")
    return ImageInput(width=side, height=side, resize=resize, resize_short_side=side, filter=kind)


def _off(content: bytes, recipe: ImageInput, **fields: object) -> np.ndarray:
    """Return how far the reduced picture's values are from the recipe's."""
    whole = images.fit(images.decode(content, options=PictureOptions(recipe)), recipe).astype(int)
    return np.abs(images.load(content, PictureOptions(recipe, **fields)) - whole)


def _is_near(off: np.ndarray) -> bool:
    return off.mean() <= 1 and (off <= 4).mean() >= 0.99


@pytest.mark.parametrize("filter", ["BILINEAR", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("resize", [CROP, STRETCH])
@pytest.mark.parametrize("side", [15, 30, 43, 60])
def test_photographs_stay_near_the_recipe(side: int, resize: ImageInput.Resize, filter: str) -> None:
    """Sharp ones of 640x427, and cut to 637x424, of which nothing is a multiple of a block: they must not shift."""
    for photo in load_sample_images().images:
        for cut in (0, 3):
            content = file(np.ascontiguousarray(photo[: 427 - cut, : 640 - cut]), "JPEG", quality=90)
            off = _off(content, _recipe(side, resize, filter), jpeg_scaling=True)
            assert off.any(), "it was reduced"
            assert _is_near(off), (off.mean(), (off <= 4).mean())


@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 60}], ids=str)
def test_made_up_photographs_stay_near_the_recipe(seed: int, options: dict[str, object]) -> None:
    content = file(photograph(1501, 1103, seed, detail=3.0 * seed), "JPEG", **options)
    for side in (39, 78, 157):
        off = _off(content, _recipe(side), jpeg_scaling=True)
        assert off.any()
        assert _is_near(off), (side, off.mean(), (off <= 4).mean())


@pytest.mark.parametrize("cell", [12, 20])
@pytest.mark.parametrize("side", [32, 64, 100, 128])
def test_details_as_small_as_the_models_pixels_stay_near_on_average(cell: int, side: int) -> None:
    """Cells of random colours, which no photograph has."""
    cells = np.random.default_rng(1).integers(0, 256, (900 // cell, 1200 // cell, 3), np.uint8)
    content = file(Image.fromarray(cells).resize((1200, 900), Image.Resampling.BICUBIC), "JPEG", quality=85)
    off = _off(content, _recipe(side), jpeg_scaling=True)
    assert off.any()
    assert _is_near(off), (off.mean(), (off <= 4).mean())


@pytest.mark.parametrize("colours", ["L", "CMYK"])
def test_grey_and_cmyk_are_reduced_too(colours: str) -> None:
    content = file(Image.fromarray(photograph(1501, 1103)).convert(colours), "JPEG")
    off = _off(content, _recipe(100), jpeg_scaling=True)
    assert off.any()
    assert _is_near(off)


def test_the_rest_is_exact() -> None:
    """Too small to be reduced, not a JPEG file, or a filter that weighs few pixels."""
    photo = Image.fromarray(load_sample_images().images[0])
    for content, recipe in [
        (file(photo, "JPEG"), _recipe(62)),
        (file(photo, "PNG"), _recipe(16)),
        (file(photo, "JPEG"), _recipe(16, filter="NEAREST")),
        (file(photo, "JPEG"), _recipe(16, filter="BOX")),
    ]:
        assert not _off(content, recipe, jpeg_scaling=True).any()
    assert not _off(file(photo, "JPEG"), _recipe(16)).any(), "nobody asked for it, and it is small"


def test_above_24_megapixels_it_is_always_done() -> None:
    large = Image.fromarray(photograph(1525, 1000)).resize((6100, 4000), Image.Resampling.BICUBIC)
    content = file(large, "JPEG", quality=80)
    off = _off(content, _recipe(224))
    assert off.any()
    assert _is_near(off)
    below = PictureOptions(_recipe(224))
    assert below.divisor(6000, 4000) == 1
    assert below.divisor(6001, 4000) == 4
    assert MAX_WHOLE_JPEG_PIXELS == 24_000_000


@pytest.mark.parametrize(
    ("width", "height", "recipe", "divisor"),
    [
        (1000, 784, _recipe(28), 8),
        (1000, 783, _recipe(28), 4),
        (1000, 391, _recipe(28), 2),
        (1000, 195, _recipe(28), 1),
        (784, 1000, _recipe(28), 8),
        (392, 784, ImageInput(width=14, height=28, resize=STRETCH, filter=1), 8),
        (784, 392, ImageInput(width=14, height=28, resize=STRETCH, filter=1), 4),
    ],
)
def test_what_is_left_is_three_and_a_half_times_what_is_needed(
    width: int, height: int, recipe: ImageInput, divisor: int
) -> None:
    assert PictureOptions(recipe, jpeg_scaling=True).divisor(width, height) == divisor


def test_a_picture_that_may_be_turned_is_reduced_for_either_side() -> None:
    recipe = ImageInput(width=14, height=28, resize=STRETCH, filter=1)
    assert PictureOptions(recipe, jpeg_scaling=True, exif_orientation="apply").divisor(392, 784) == 4


def test_what_is_damaged_is_refused() -> None:
    content = file(load_sample_images().images[0], "JPEG")
    with pytest.raises(BadImage, match="damaged or incomplete"):
        images.load(content[:900], PictureOptions(_recipe(16), jpeg_scaling=True))


def test_what_libjpeg_turbo_complains_of_is_reduced_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a damaged file would take the memory of a whole one, which nobody counted."""
    content = bytearray(file(load_sample_images().images[0], "JPEG", quality=90))
    content[len(content) // 2 : len(content) // 2 + 8] = bytes(8)
    sizes: list[tuple[int, int]] = []
    pillow = images.decode_by_pillow
    monkeypatch.setattr(
        images, "decode_by_pillow", lambda *given: (decoded := pillow(*given), sizes.append(decoded.size))[0]
    )
    images.load(bytes(content), PictureOptions(_recipe(30), jpeg_scaling=True))
    assert sizes == [(160, 107)]
