"""Progressive JPEG files of many scans: counted before they are decoded, and not to be hidden."""

import struct

import numpy as np
import pytest
from PIL import Image
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.jpeg import scans
from resonnx_server.runtime.pictures.options import PictureOptions

from ...holding import longest_hold_s
from .recipe_files import SMOOTH, STRETCH, by_server, file_of


def _progressive() -> bytes:
    return file_of(Image.fromarray(SMOOTH), "JPEG", progressive=True)


def _last_scan(file: bytes) -> bytes:
    return file[file.rindex(b"\xff\xda") : file.rindex(b"\xff\xd9")]


def _with_scans(count: int) -> bytes:
    """A progressive file whose last scan is repeated until there are `count`: every decoder does each of them."""
    file = _progressive()
    return file[:-2] + _last_scan(file) * (count - file.count(b"\xff\xda")) + file[-2:]


@pytest.mark.parametrize("jpeg_scaling", [False, True])
def test_a_jpeg_of_more_scans_than_encoders_make_is_refused(jpeg_scaling: bool) -> None:
    options = PictureOptions(STRETCH, jpeg_scaling=jpeg_scaling)
    assert images.load(_with_scans(64), options).shape == (20, 24, 3)
    for count in (65, 3000):
        with pytest.raises(BadImage, match=f"image.encoded: a JPEG file of {count} scans, more than 64"):
            images.load(_with_scans(count), options)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


_LOOKS_LIKE_SCANS = b"\xff\xda" * 100


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_segment(0xE1, b"Exif\x00\x00" + _LOOKS_LIKE_SCANS), b""),
        (_segment(0xE2, b"ICC_PROFILE\x00" + _LOOKS_LIKE_SCANS) * 3 + _segment(0xFE, _LOOKS_LIKE_SCANS), b""),
        (b"", _LOOKS_LIKE_SCANS),
    ],
    ids=["thumbnail", "profile and comment", "behind the end"],
)
def test_what_only_looks_like_scans_is_not_counted(before: bytes, after: bytes) -> None:
    plain = _progressive()
    file = plain[:2] + before + plain[2:] + after
    np.testing.assert_array_equal(by_server(file), by_server(plain))


@pytest.mark.parametrize("behind", [b"\xff\x00", b"\xff\xda", b"\xff\xff"], ids=["no markers", "scans", "fill bytes"])
def test_looking_for_scans_lets_others_run(behind: bytes) -> None:
    """Of 32 MB at once no other thread would have the interpreter until all is looked at."""
    file = _with_scans(100)[:-2] + behind * (16 << 20)
    assert scans(file) >= 100
    assert min(longest_hold_s(lambda: scans(file)) for _ in range(3)) < 0.03


@pytest.mark.parametrize(
    "hiding",
    [
        b"\xff\x02\xff\xf0",  # A marker that decoders skip without a length.
        b"\xff\xd3\xff\xf0",  # One that starts decoders again, without a length either.
        b"\xff\xff\xff",  # Fill bytes.
        _segment(0xFE, b"") * 5000,  # More segments than are read one by one.
    ],
)
def test_scans_cannot_be_hidden(hiding: bytes) -> None:
    file = _progressive()
    with pytest.raises(BadImage, match="scans, more than 64"):
        images.load(file[:-2] + hiding + _last_scan(file) * 100 + file[-2:], PictureOptions(STRETCH))


def test_what_is_cut_off_is_not_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode_by_pillow", lambda *_: pytest.fail("it would refuse it after the same work"))
    for missing in (2, 30, 400):
        with pytest.raises(BadImage, match="damaged or incomplete"):
            images.load(_progressive()[:-missing], PictureOptions(STRETCH))
