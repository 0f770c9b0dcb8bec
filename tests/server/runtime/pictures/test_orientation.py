"""EXIF's eight orientations: ignored or applied, as a model's recipe or the settings say."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.pictures.orientation import orientation

from .picture_files import ALL, PHOTO, chunk, file, oriented, photograph

CROP = ImageInput(
    width=24,
    height=20,
    resize=ImageInput.RESIZE_SHORT_SIDE_CROP,
    resize_short_side=28,
    filter=ImageInput.FILTER_BILINEAR,
)
STRETCH = ImageInput(width=24, height=9, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)


def _options(applied: bool, recipe: ImageInput = CROP, **fields: object) -> PictureOptions:
    return PictureOptions(recipe, exif_orientation="apply" if applied else "ignore", formats=ALL, **fields)


def _pillows(content: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "AVIF", "TIFF"])
def test_all_orientations_of_all_formats_that_have_them(format: str, value: int) -> None:
    content = oriented(value, format=format)
    upright = _pillows(content)
    np.testing.assert_array_equal(np.asarray(images.decode(content, options=_options(True))), np.asarray(upright))
    for recipe in (CROP, STRETCH):
        expected = images.fit(upright, recipe)
        np.testing.assert_array_equal(images.load(content, _options(True, recipe)), expected)
    if format != "TIFF":
        stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(np.asarray(images.decode(content, options=_options(False))), stored)


@pytest.mark.parametrize("value", range(1, 9))
def test_what_pillow_decodes_of_jpeg_is_turned_too(value: int) -> None:
    content = oriented(value, Image.fromarray(PHOTO).convert("CMYK"))
    np.testing.assert_array_equal(images.load(content, _options(True)), images.fit(_pillows(content), CROP))


def test_the_recipe_says_what_the_settings_leave_open() -> None:
    content = oriented(6)
    applies = ImageInput()
    applies.CopyFrom(CROP)
    applies.exif_orientation = ImageInput.EXIF_ORIENTATION_APPLY
    upright, stored = images.load(content, _options(True)), images.load(content, _options(False))
    assert (upright != stored).any()
    np.testing.assert_array_equal(images.load(content, PictureOptions(CROP)), stored)
    np.testing.assert_array_equal(images.load(content, PictureOptions(applies)), upright)
    np.testing.assert_array_equal(images.load(content, PictureOptions(applies, exif_orientation="ignore")), stored)
    np.testing.assert_array_equal(images.load(content, PictureOptions(CROP, exif_orientation="apply")), upright)


@pytest.mark.parametrize("value", range(1, 9))
def test_a_reduced_picture_is_turned_without_being_shifted(value: int) -> None:
    """Sides that are no multiples of 8: the part of the last pixels that shows nothing comes to lie elsewhere."""
    pixels = photograph(1029, 733, seed=value)
    content = oriented(value, pixels, quality=92)
    for recipe in (CROP, STRETCH):
        reduced = images.load(content, _options(True, recipe, jpeg_scaling=True)).astype(int)
        whole = images.load(content, _options(True, recipe))
        off = np.abs(reduced - whole)
        assert 0 < off.mean() <= 1
        assert (off <= 4).mean() >= 0.99


def _block(*entries: bytes, order: bytes = b"II*\x00\x08\x00\x00\x00") -> bytes:
    return order + len(entries).to_bytes(2, "little") + b"".join(entries) + bytes(4)


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return b"".join(number.to_bytes(size, "little") for number, size in ((tag, 2), (kind, 2), (count, 4), (value, 4)))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (_block(_entry(0x0112, 3, 1, 6)), 6),
        (_block(_entry(0x0110, 2, 4, 0), _entry(0x0112, 4, 1, 8)), 8),
        (b"Exif\x00\x00" + _block(_entry(0x0112, 3, 1, 3)), 3),
        (_block(_entry(0x0112, 3, 1, 9)), 1),
        (_block(_entry(0x0112, 3, 1, 0)), 1),
        (_block(_entry(0x0112, 3, 2, 6)), 1),
        (_block(_entry(0x0112, 7, 1, 6)), 1),
        (_block(), 1),
        (_block(_entry(0x0112, 3, 1, 6))[:17], 1),
        (b"II*\x00\xff\xff\xff\xff", 1),
        (b"XX*\x00" + bytes(30), 1),
        (b"", 1),
    ],
)
def test_what_makes_no_sense_is_upright(block: bytes, expected: int) -> None:
    assert orientation(block) == expected


@given(st.binary(max_size=80), st.booleans())
def test_any_block_has_an_orientation(tail: bytes, little: bool) -> None:
    assert orientation((b"II*\x00\x08\x00\x00\x00" if little else b"MM\x00*\x00\x00\x00\x08") + tail) in range(1, 9)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff", b"Exif\x00\x00" + bytes(9)])
def test_malformed_exif_is_none(exif: bytes) -> None:
    expected = np.asarray(Image.open(io.BytesIO(file(PHOTO, "JPEG"))))
    np.testing.assert_array_equal(
        np.asarray(images.decode(file(PHOTO, "JPEG", exif=exif), options=_options(True))), expected
    )
    png = file(PHOTO, "PNG")
    damaged = png[:33] + chunk(b"eXIf", exif[6:] or b"x") + png[33:]
    np.testing.assert_array_equal(np.asarray(images.decode(damaged, options=_options(True))), PHOTO)
