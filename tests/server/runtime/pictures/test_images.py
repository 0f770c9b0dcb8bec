"""One rule for each kind of picture, pixel by pixel against the training recipe (Pillow, torchvision's arithmetic)."""

import contextlib
import functools
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

from ....conftest import examples
from .recipe_files import CROP, NOISE, RNG, SMOOTH, STRETCH, by_recipe, by_server, file_of

ALL = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF")
HEADS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x00\x00\x00\x00WEBP",
    b"GIF89a",
    b"BM",
    b"II*\x00\x08\x00\x00\x00",
    b"\x00\x00\x00\x18ftypavif",
)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(subsampling: int, quality: int, progressive: bool) -> None:
    for pixels in (NOISE, SMOOTH):
        file = file_of(
            Image.fromarray(pixels), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
        )
        np.testing.assert_array_equal(by_server(file), by_recipe(file))


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(SMOOTH).convert("L"), "JPEG"),
        (Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
        (Image.fromarray(SMOOTH).convert("L"), "PNG"),
        (Image.fromarray(SMOOTH).convert("1"), "PNG"),
        (Image.fromarray(SMOOTH).convert("P"), "PNG"),
        (Image.fromarray(SMOOTH), "WEBP"),
        (Image.merge("LA", [Image.fromarray(NOISE[..., 0]), Image.fromarray(NOISE[..., 1])]), "PNG"),
        (Image.merge("RGBA", [*Image.fromarray(NOISE).split(), Image.fromarray(NOISE[..., 1])]), "PNG"),
        (Image.merge("RGBA", [*Image.fromarray(NOISE).split(), Image.fromarray(NOISE[..., 1])]), "WEBP"),
    ],
    ids=["grey", "cmyk", "grey-png", "bilevel", "palette", "webp", "grey-alpha", "alpha", "alpha-webp"],
)
def test_modes_equal_the_recipe(image: Image.Image, format: str) -> None:
    file = file_of(image, format)
    np.testing.assert_array_equal(by_server(file), by_recipe(file))


def test_alpha_is_dropped_not_blended() -> None:
    opaque = Image.fromarray(NOISE)
    clear = Image.merge("RGBA", [*opaque.split(), Image.new("L", opaque.size, 0)])
    np.testing.assert_array_equal(by_server(file_of(clear, "PNG")), NOISE)


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = file_of(Image.fromarray(SMOOTH), "JPEG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(file))).size == SMOOTH.shape[:2]
    np.testing.assert_array_equal(by_server(file), by_recipe(file))
    assert by_server(file).shape == SMOOTH.shape


def test_16_bit_grey_keeps_its_high_byte() -> None:
    grey = RNG.integers(0, 65536, (9, 11)).astype(np.uint16)
    decoded = by_server(file_of(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Write a PNG as its specification has it: Pillow cannot write all kinds that it reads."""
    stride = len(rows) // height
    filtered = b"".join(b"\x00" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_16_bit_colour_equals_the_recipe_and_keeps_its_high_byte() -> None:
    values = RNG.integers(0, 65536, (5, 7, 3)).astype(">u2")
    file = _png(7, 5, 16, 2, values.tobytes())
    np.testing.assert_array_equal(by_server(file), by_recipe(file))
    np.testing.assert_array_equal(by_server(file), (values >> 8).astype(np.uint8))


def test_transparent_palette_equals_the_recipe() -> None:
    palette = RNG.integers(0, 256, 4 * 3, dtype=np.uint8).tobytes()
    rows = RNG.integers(0, 4, (6, 8), dtype=np.uint8).tobytes()
    file = _png(8, 6, 8, 3, rows, (b"PLTE", palette), (b"tRNS", bytes([0, 128, 255, 3])))
    with pytest.warns(UserWarning, match="Transparency"):
        expected = by_recipe(file)
    np.testing.assert_array_equal(by_server(file), expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_exif_orientation_of_other_formats_is_not_applied(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = file_of(Image.fromarray(NOISE), format, exif=exif, lossless=True)
    np.testing.assert_array_equal(by_server(file), NOISE)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    file = file_of(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(by_server(file), np.full((8, 8, 3), 10, np.uint8))


@given(width=st.integers(1, 200), height=st.integers(1, 200))
@examples(60)
def test_short_side_rule_is_torchvisions(width: int, height: int) -> None:
    """Resize(28) then CenterCrop((20, 24)), written as torchvision.transforms.v2.functional computes them."""
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    short, long = sorted((width, height))
    new_short, new_long = 28, int(28 * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    resized = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = round((new_height - 20) / 2.0), round((new_width - 24) / 2.0)
    expected = np.asarray(resized.crop((left, top, left + 24, top + 20)))
    np.testing.assert_array_equal(images.fit(image, CROP), expected)


def test_stretch_and_raw_pixels() -> None:
    expected = np.asarray(Image.fromarray(SMOOTH).resize((24, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(images.from_raw(SMOOTH.tobytes(), 317, 211, PictureOptions(STRETCH)), expected)
    np.testing.assert_array_equal(
        images.load(file_of(Image.fromarray(SMOOTH), "PNG"), PictureOptions(STRETCH)), expected
    )
    fits = np.ascontiguousarray(SMOOTH[:20, :24])
    np.testing.assert_array_equal(images.from_raw(fits.tobytes(), 24, 20, PictureOptions(STRETCH)), fits)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nearly nothing."""
    file = _png(1, 1, 8, 2, bytes(3))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (file_of(Image.fromarray(SMOOTH), "JPEG")[:900], "a JPEG picture that is damaged or incomplete"),
        (file_of(Image.fromarray(SMOOTH), "PNG")[:900], "a PNG picture that is damaged or incomplete"),
        (file_of(Image.fromarray(SMOOTH), "WEBP")[:900], "a WebP picture that is damaged or incomplete"),
        (file_of(Image.fromarray(SMOOTH), "GIF")[:900], "a GIF picture that is damaged or incomplete"),
        (file_of(Image.fromarray(SMOOTH), "BMP")[:900], "a BMP picture that is damaged or incomplete"),
        (b"\xff\xd8\xff\xe0 not really", "a JPEG picture, and its header is damaged or incomplete"),
        (_png_header(16385, 10), "within 1..16384"),
        (_png_header(9000, 9000), "81000000 pixels, more than 67108864"),
        (_png_header(16000, 16000), "more than 67108864"),
    ],
)
def test_bad_files_are_refused_by_a_clear_message(file: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message) as refused:
        images.load(file, PictureOptions(CROP), "image.encoded")
    assert refused.value.field == "image.encoded"


def test_large_jpeg_is_refused_from_its_header() -> None:
    file = bytearray(file_of(Image.fromarray(NOISE), "JPEG"))
    frame = file.index(b"\xff\xc0")
    file[frame + 5 : frame + 9] = struct.pack(">HH", 9000, 9000)
    with pytest.raises(BadImage, match="81000000 pixels"):
        images.decode(bytes(file))


def test_extreme_aspect_is_refused_before_it_is_resized() -> None:
    with pytest.raises(BadImage, match="would be resized"):
        images.fit(Image.new("RGB", (8000, 1)), ImageInput(
            width=224, height=224, resize=ImageInput.RESIZE_SHORT_SIDE_CROP, resize_short_side=256,
            filter=ImageInput.FILTER_BILINEAR,
        ))  # fmt: skip


def test_raw_pixels_of_the_wrong_length() -> None:
    with pytest.raises(BadImage, match=r"image.raw.rgb: 5 bytes; width 2 and height 2 need 12"):
        images.from_raw(b"12345", 2, 2, PictureOptions(STRETCH))
    with pytest.raises(BadImage, match=r"image.raw: 0x2 pixels"):
        images.from_raw(b"", 0, 2, PictureOptions(STRETCH))


@given(st.binary(max_size=400))
@examples(300)
def test_any_bytes_decode_or_are_refused(tail: bytes) -> None:
    for head in HEADS:
        with contextlib.suppress(BadImage):
            images.load(head + tail, PictureOptions(STRETCH, formats=ALL))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@given(data=st.data())
@examples(150)
def test_damaged_files_decode_or_are_refused(format: str, data: st.DataObject) -> None:
    file = bytearray(_smooth_file(format))
    for _ in range(data.draw(st.integers(1, 5))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert images.load(bytes(file), PictureOptions(STRETCH, formats=ALL)).shape == (20, 24, 3)


@functools.cache
def _smooth_file(format: str) -> bytes:
    # Once: some encoders do not write the same file twice.
    return file_of(Image.fromarray(SMOOTH), format)
