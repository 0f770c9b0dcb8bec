"""Files of the kinds that people send: the pixels of `PIL.Image.open(f).convert("RGB")`, or a refusal by name."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

from .picture_files import ALL, PHOTO, RNG, SMALL, chunk, file, png

RECIPE = ImageInput(width=24, height=20, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)
ANY = PictureOptions(RECIPE, formats=ALL)
ALPHA = Image.merge("RGBA", [*Image.fromarray(PHOTO).split(), Image.fromarray(PHOTO[..., 1])])
GREY = Image.fromarray(PHOTO[..., 0])
PLAIN = file(PHOTO, "JPEG", quality=85)


def _pillows(content: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _frames(format: str, **options: object) -> bytes:
    frames = [Image.fromarray(np.full((40, 50, 3), value, np.uint8)) for value in (10, 200, 90)]
    return file(frames[0], format, save_all=True, append_images=frames[1:], **options)


def _beyond_its_screen() -> bytes:
    """A GIF whose screen is smaller than its picture."""
    whole = bytearray(file(Image.fromarray(PHOTO).quantize(64), "GIF"))
    whole[6:10] = struct.pack("<HH", 5, 4)
    return bytes(whole)


SOUND = {
    "plain.jpg": PLAIN,
    "prog.jpg": file(PHOTO, "JPEG", progressive=True),
    "restart.jpg": file(PHOTO, "JPEG", restart_marker_blocks=3),
    "grey.jpg": file(GREY, "JPEG"),
    "cmyk.jpg": file(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "rgb.jpg": file(PHOTO, "JPEG", keep_rgb=True),
    "422.jpg": file(PHOTO, "JPEG", subsampling=1),
    "mpo.jpg": file(PHOTO, "MPO", save_all=True, append_images=[Image.fromarray(SMALL)]),
    "profile.jpg": file(PHOTO, "JPEG", icc_profile=b"\xff\xda" * 50_000),
    "trailing.jpg": PLAIN + b"<html>",
    "zeros.jpg": PLAIN + bytes(512),
    "1x1.jpg": file(np.zeros((1, 1, 3), np.uint8), "JPEG"),
    "1x1.png": png(1, 1, 8, 2, b"abc"),
    "10000x1.png": png(10_000, 1, 8, 0, bytes(10_000)),
    "1x10000.png": png(1, 10_000, 8, 0, bytes(10_000)),
    "bilevel.png": file(GREY.convert("1"), "PNG"),
    "palette.png": file(Image.fromarray(PHOTO).quantize(200), "PNG"),
    "4-bit.png": file(Image.fromarray(PHOTO).quantize(16), "PNG", bits=4),
    "palette-alpha.png": file(Image.fromarray(PHOTO).quantize(8), "PNG", transparency=bytes((0, 128, 255, 3))),
    "palette-clear.png": file(Image.fromarray(PHOTO).quantize(8), "PNG", transparency=3),
    "alpha.png": file(ALPHA, "PNG"),
    "grey-alpha.png": file(ALPHA.convert("LA"), "PNG"),
    "16-bit.png": png(8, 6, 16, 2, RNG.integers(0, 256, (6, 8, 6), np.uint8).tobytes()),
    "moving.png": _frames("PNG"),
    "lossy.webp": file(PHOTO, "WEBP"),
    "lossless.webp": file(PHOTO, "WEBP", lossless=True),
    "alpha.webp": file(ALPHA, "WEBP"),
    "moving.webp": _frames("WEBP", lossless=True),
    "trailing.webp": file(PHOTO, "WEBP") + b"more",
    "plain.gif": file(Image.fromarray(PHOTO).quantize(128), "GIF"),
    "interlaced.gif": file(Image.fromarray(PHOTO).quantize(128), "GIF", interlace=True),
    "clear.gif": file(Image.fromarray(PHOTO).quantize(8), "GIF", transparency=2),
    "moving.gif": _frames("GIF", disposal=2, comment=b"x" * 1000),
    "beyond.gif": _beyond_its_screen(),
    "plain.bmp": file(PHOTO, "BMP"),
    "alpha.bmp": file(ALPHA, "BMP"),
    "palette.bmp": file(Image.fromarray(PHOTO).quantize(200), "BMP"),
    "bilevel.bmp": file(GREY.convert("1"), "BMP"),
    "plain.tif": file(PHOTO, "TIFF"),
    "lzw.tif": file(PHOTO, "TIFF", compression="tiff_lzw"),
    "jpeg.tif": file(PHOTO, "TIFF", compression="jpeg"),
    "cmyk.tif": file(Image.fromarray(PHOTO).convert("CMYK"), "TIFF"),
    "16-bit.tif": file(Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257), "TIFF"),
    "pages.tif": file(PHOTO, "TIFF", save_all=True, append_images=[Image.fromarray(SMALL)]),
    "plain.avif": file(PHOTO, "AVIF", speed=10),
    "alpha.avif": file(ALPHA, "AVIF", speed=10),
    "of another brand first.avif": file(PHOTO, "AVIF", speed=10).replace(b"ftypavif", b"ftypmif1", 1),
}


@pytest.mark.parametrize("name", SOUND)
def test_pixels_are_pillows(name: str) -> None:
    np.testing.assert_array_equal(np.asarray(images.decode(SOUND[name], options=ANY)), _pillows(SOUND[name]))


CUT = {
    "half.jpg": PLAIN[: len(PLAIN) // 2],
    "without its end.jpg": PLAIN[:-30],
    "half.webp": SOUND["lossy.webp"][:900],
    "half.png": SOUND["alpha.png"][:900],
    "half.gif": SOUND["plain.gif"][:1200],
    "half.bmp": SOUND["plain.bmp"][:900],
    "half.tif": SOUND["lzw.tif"][:900],
    "half.avif": SOUND["plain.avif"][:-500],
    "nothing behind the header.png": SOUND["1x1.png"][:33],
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_cut_off_is_refused_by_its_name(name: str) -> None:
    format = {"jpg": "JPEG", "webp": "WebP", "tif": "TIFF"}.get(
        name.rpartition(".")[2], name.rpartition(".")[2].upper()
    )
    with pytest.raises(BadImage, match=rf"^image.encoded: an? {format} picture.*damaged or incomplete"):
        images.load(CUT[name], ANY)


@pytest.mark.parametrize(("format", "name"), [("TIFF", "a TIFF"), ("AVIF", "an AVIF")])
def test_formats_are_opened_if_they_are_allowed(format: str, name: str) -> None:
    content = file(PHOTO, format)
    _opened_only_if_allowed(format, name, content)


def test_avif_is_told_by_any_of_its_brands() -> None:
    _opened_only_if_allowed("AVIF", "an AVIF", SOUND["of another brand first.avif"])


def _opened_only_if_allowed(format: str, name: str, content: bytes) -> None:
    refused = f"image.encoded: {name} picture, which the server's `formats` do not allow: JPEG, PNG, WebP, BMP and GIF"
    with pytest.raises(BadImage, match=refused):
        images.load(content, PictureOptions(RECIPE))
    assert images.load(content, PictureOptions(RECIPE, formats=(format,))).shape == (20, 24, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "BMP", "GIF"])
def test_formats_that_are_not_allowed_are_not_opened(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_by_pillow", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(images, "decode_jpeg", lambda *_: pytest.fail("opened"))
    others = tuple(name for name in ALL if name != format)
    with pytest.raises(BadImage, match=rf"a {format} picture, which the server's `formats` do not allow"):
        images.load(file(PHOTO, format), PictureOptions(RECIPE, formats=others))


def _large_png() -> bytes:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def _patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def _large_tiff(**tags: int) -> bytes:
    """A TIFF with these numbers in its tags."""
    numbers = {"width": 256, "height": 257, "tile_width": 322, "tile_height": 323, "samples": 277, "bits": 258}
    numbers["exif"] = 34665
    entries = [struct.pack("<HHII", numbers[name], 4, 1, value) for name, value in tags.items() if name in numbers]
    if offsets := tags.get("offsets"):
        entries.append(struct.pack("<HHII", 273, 4, offsets, 8))
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def _nested_tiff(entries: int = 1, values: int = 1) -> bytes:
    """A TIFF whose EXIF directory says that it has so many entries, of which the first has so many values."""
    outer = _large_tiff(width=100, height=100, exif=50)
    assert len(outer) == 50
    return outer + struct.pack("<HHHII", entries, 33434, 5, values, 8)


LARGE = {
    "jpg": _patched(PLAIN, PLAIN.index(b"\xff\xc0") + 5, struct.pack(">HH", 9000, 9000)),
    "png": _large_png(),
    "lossy.webp": _patched(SOUND["lossy.webp"], 26, struct.pack("<HH", 9000, 9000)),
    "lossless.webp": _patched(SOUND["lossless.webp"], 21, struct.pack("<I", 8999 | 8999 << 14)),
    "alpha.webp": _patched(SOUND["alpha.webp"], 24, (8999).to_bytes(3, "little") * 2),
    "bmp": _patched(SOUND["plain.bmp"], 18, struct.pack("<ii", 9000, -9000)),
    "screen.gif": _patched(SOUND["plain.gif"], 6, struct.pack("<HH", 9000, 9000)),
    "tif": _large_tiff(width=9000, height=9000),
}


@pytest.mark.parametrize("name", LARGE)
def test_size_is_read_before_anything_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_by_pillow", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(images, "decode_jpeg", lambda *_: pytest.fail("opened"))
    with pytest.raises(BadImage, match="9000x9000 is 81000000 pixels, more than 67108864"):
        images.load(LARGE[name], ANY)


def test_limits_are_the_options() -> None:
    small = PictureOptions(RECIPE, max_pixels=12_707, max_side=131)
    assert images.load(PLAIN, small).shape == (20, 24, 3)
    with pytest.raises(BadImage, match="131x97 is 12707 pixels, more than 12706"):
        images.load(PLAIN, PictureOptions(RECIPE, max_pixels=12_706))
    with pytest.raises(BadImage, match=r"a side must be within 1\.\.130"):
        images.load(PLAIN, PictureOptions(RECIPE, max_side=130))
    with pytest.raises(BadImage, match="4x4 is 16 pixels, more than 15"):
        images.from_raw(bytes(48), 4, 4, PictureOptions(RECIPE, max_pixels=15))


@pytest.mark.parametrize("side", [256, 600, 4096])
@pytest.mark.parametrize("resize", [ImageInput.RESIZE_STRETCH, ImageInput.RESIZE_SHORT_SIDE_CROP])
def test_what_may_arrive_does_not_limit_what_models_take(resize: ImageInput.Resize, side: int) -> None:
    """Small pictures are taken by models whose own pixels are more than may arrive."""
    recipe = ImageInput(width=side, height=side, resize=resize, resize_short_side=side, filter=RECIPE.filter)
    small = PictureOptions(recipe, formats=("PNG",), max_pixels=1 << 16)
    square = PHOTO[:90, :90]
    expected = images.load(file(square, "PNG"), PictureOptions(recipe))
    assert (images.load(file(square, "PNG"), small) == expected).all()
    assert (images.from_raw(square.tobytes(), 90, 90, small) == expected).all()


@pytest.mark.parametrize(
    "name", ["plain.jpg", "alpha.png", "lossy.webp", "plain.gif", "plain.bmp", "lzw.tif", "plain.avif"]
)
def test_limits_hold_for_every_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_by_pillow", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(images, "decode_jpeg", lambda *_: pytest.fail("opened"))
    with pytest.raises(BadImage, match="131x97 is 12707 pixels, more than 12706"):
        images.load(SOUND[name], PictureOptions(RECIPE, formats=ALL, max_pixels=12_706))


def test_photographs_of_present_phones_are_taken() -> None:
    options = PictureOptions(RECIPE)
    for width, height in ((5712, 4284), (8064, 6048), (9248, 6936)):
        images.check_size(width, height, "image", options)
    with pytest.raises(BadImage):
        images.check_size(16_384, 12_288, "image", options)


def _lying_avif() -> bytes:
    """Its header says 16x16, its stream what it was."""
    content = SOUND["plain.avif"]
    return _patched(content, content.index(b"ispe") + 8, struct.pack(">II", 16, 16))


def _second_size_png() -> bytes:
    """Its first header says 8x6, its second 4000x4000."""
    second = struct.pack(">IIBBBBB", 4000, 4000, 8, 2, 0, 0, 0)
    return png(8, 6, 8, 2, SMALL.tobytes(), (b"IHDR", second))


def test_a_second_size_is_not_believed() -> None:
    with pytest.raises(BadImage, match="damaged"):
        images.load(_second_size_png(), ANY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_large_tiff(width=100, height=100, tile_width=60_000, tile_height=60_000), "TIFF picture that takes .* bytes"),
        (_large_tiff(width=100, height=100, samples=60_000), "its pixels have 60000 samples of 1 bits"),
        (_large_tiff(width=100, height=100, bits=60_000), "its pixels have 1 samples of 60000 bits"),
        (b"II*\x00" + struct.pack("<IH", 8, 65_535), "its first directory is damaged"),
        (_large_tiff(width=100, height=100, offsets=70_000), "its tag 273 has 70000 values, more than 65536"),
        (_nested_tiff(entries=2000), "a directory has 2000 entries, more than 256"),
        (_nested_tiff(values=70_000), "its tag 33434 has 70000 values"),
        (_large_tiff(width=100, height=100, exif=8), "refer to each other without end"),
        (b"II+\x00" + bytes(60), "a BigTIFF picture"),
        (_patched(SOUND["palette.bmp"], 30, struct.pack("<I", 1)), "run-length encoded"),
        (_patched(SOUND["plain.avif"], 8, b"avis"), "moving AVIF"),
        (_lying_avif(), "differs from its pictures"),
        (SOUND["plain.avif"].replace(b"av01", b"av02"), "its header is damaged"),
        (b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01x" * 5000, "its header is damaged"),
    ],
    ids=[
        "tile",
        "samples",
        "bits",
        "entries",
        "offsets",
        "exif entries",
        "exif values",
        "endless",
        "bigtiff",
        "rle",
        "moving avif",
        "lying avif",
        "avif without pictures",
        "gif of comments",
    ],
)
def test_tricks_are_refused_by_their_headers(content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_by_pillow", lambda *_: pytest.fail("opened"))
    with pytest.raises(BadImage, match=message):
        images.load(content, ANY)


def test_the_first_frame_that_is_larger_than_the_screen_counts() -> None:
    content = bytearray(SOUND["plain.gif"])
    descriptor = content.index(b",\x00\x00\x00\x00")
    content[descriptor + 5 : descriptor + 9] = struct.pack("<HH", 9000, 9000)
    with pytest.raises(BadImage, match="9000x9000"):
        images.load(bytes(content), ANY)
