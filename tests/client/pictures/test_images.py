"""What counts as a picture, and how it travels."""

import array
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resonnx import InvalidArgument
from resonnx._pictures.images import is_sendable, sendable, to_message
from resonnx_server.runtime.pictures.images import decode

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_sends_the_files_bytes(tmp_path: Path, kind: type) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"as it is")
    assert to_message(kind(file)).encoded == b"as it is"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_an_encoded_file(kind: type) -> None:
    assert to_message(kind(b"jpeg")).encoded == b"jpeg"
    assert to_message(memoryview(b"j.p.e.g")[::2]).encoded == b"jpeg"


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        to_message("no such file.jpg")


@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    flip=st.sampled_from([slice(None), slice(None, None, -1)]),
    fortran=st.booleans(),
)
def test_arrays_of_any_strides_become_raw_rgb(height: int, width: int, flip: slice, fortran: bool) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    laid_out = np.asfortranarray(pixels) if fortran else pixels
    raw = to_message(laid_out[flip, :, flip]).raw
    assert (raw.height, raw.width) == (height, width)
    assert raw.rgb == np.ascontiguousarray(pixels[flip, :, flip]).tobytes()


@given(height=st.integers(1, 5), width=st.integers(1, 5), channels=st.sampled_from([0, 1, 3, 4]), reverse=st.booleans())
def test_grey_and_transparent_arrays_are_what_pillow_makes_of_them(
    height: int, width: int, channels: int, reverse: bool
) -> None:
    shape = (height, width, channels) if channels else (height, width)
    pixels = np.random.default_rng(7).integers(0, 256, shape, np.uint8)[:: -1 if reverse else 1]
    raw = to_message(pixels).raw
    assert (raw.height, raw.width) == (height, width)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    assert raw.rgb == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("view", ["plain", "reversed", "needs gradient elsewhere"])
def test_tensors_are_what_their_arrays_are(channels: int, first: bool, view: str) -> None:
    shape = (5, 7, channels) if channels else (5, 7)
    pixels = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    tensor = torch.from_numpy(pixels.copy())
    if view == "reversed":
        pixels, tensor = pixels[::-1], tensor.flip(0)
    if channels and first:
        tensor = tensor.permute(2, 0, 1)
        if view == "plain":
            tensor = tensor.contiguous()
    assert to_message(tensor) == to_message(np.ascontiguousarray(pixels))


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (
            torch.zeros(3, 5, 7),
            r"0 to 255, got torch\.float32 \[3, 5, 7\].*before scaling and normalising",
        ),
        (torch.zeros(5, 7, 3, dtype=torch.bfloat16, requires_grad=True), r"got torch\.bfloat16 \[5, 7, 3\]"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.uint8), r"got torch\.uint8 \[1, 3, 5, 7\]"),
        (torch.zeros(3, 5, 3, dtype=torch.uint8), r"not both at once, got torch\.uint8 \[3, 5, 3\]"),
        (torch.zeros(2, 5, 7, dtype=torch.uint8), r"got torch\.uint8 \[2, 5, 7\]"),
        (torch.zeros(3, 0, 7, dtype=torch.uint8), r"got torch\.uint8 \[3, 0, 7\]"),
    ],
)
def test_tensors_that_are_no_pictures(tensor: torch.Tensor, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        to_message(tensor)


def test_open_files_are_read_from_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"lead, picture")
    with path.open("rb") as file:
        file.seek(6)
        assert to_message(file).encoded == b"picture"
        with pytest.raises(ValueError, match=r"nothing left to read: seek\(0\)"):
            to_message(file)
    assert to_message(io.BytesIO(b"picture")).encoded == b"picture"
    with path.open() as text, pytest.raises(TypeError, match=r"binary mode \('rb'\): read\(\) gave str"):
        to_message(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bit_grey_keeps_its_high_byte_as_the_server_does(mode: str) -> None:
    values = np.array([[0, 255, 256], [0x1234, 0xFEDC, 65535]], np.uint16)
    image = Image.fromarray(values)
    if mode != "I;16":
        image = image.convert("I")
    if mode not in ("I", "I;16"):
        image = image.convert(mode)
    assert image.mode == mode
    high = (values >> 8).astype(np.uint8)
    assert to_message(image).raw.rgb == np.repeat(high, 3).tobytes()
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    assert np.array_equal(decode(file.getvalue()), np.dstack([high] * 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr"])
def test_pil_images_of_any_mode_become_raw_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    raw = to_message(image).raw
    assert (raw.width, raw.height) == (3, 2)
    assert raw.rgb == image.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (PIXELS.astype(np.float32), r"float32 \[2, 3, 3\]"),
        (PIXELS.astype(bool), r"bool \[2, 3, 3\]"),
        (PIXELS[None], r"uint8 \[1, 2, 3, 3\]"),
        (PIXELS[:, :, :2], r"uint8 \[2, 3, 2\]"),
        (PIXELS.transpose(2, 0, 1)[:, :, :2], r"uint8 \[3, 2, 2\]"),
        (PIXELS[:, :, 0].astype(np.uint16), r"uint16 \[2, 3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"uint8 \[3, 4, 5\]"),
        (np.zeros((0, 3, 3), np.uint8), r"uint8 \[0, 3, 3\]"),
        (np.array(7, np.uint8), r"uint8 \[\]"),
        (array.array("B", b"abc"), r"format 'B' \[3\]"),
        (PIXELS.data, r"uint8 \[2, 3, 3\]"),
    ],
)
def test_another_shape_or_dtype_is_named(image: object, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        to_message(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [None, 7, [PIXELS], object()])
def test_what_is_no_picture_is_a_type_error(image: object) -> None:
    with pytest.raises(TypeError, match="picture"):
        to_message(image)  # type: ignore[arg-type]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A message of a few pixels, in place of 64 MiB."""
    monkeypatch.setattr("resonnx._pictures.images.MAX_PICTURE_BYTES", 30_000)
    return 30_000


def test_pixels_that_are_too_many_go_as_png(limit: int) -> None:
    # A gradient: 3 bytes a pixel, of which PNG leaves little.
    pixels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (100, 200, 3)).copy()
    for picture in (pixels, torch.from_numpy(pixels), Image.fromarray(pixels)):
        message = to_message(picture)
        assert len(message.raw.rgb) > limit
        assert not is_sendable(message)
        sent = sendable(message)
        assert len(sent.encoded) <= limit
        assert np.array_equal(decode(sent.encoded), pixels)


def test_what_fits_goes_as_it_is(limit: int) -> None:
    message = to_message(np.zeros((100, 100, 3), np.uint8))
    assert len(message.raw.rgb) == limit
    assert sendable(message) is message
    assert is_sendable(to_message(bytes(limit)))


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (bytes(30_001), "a picture file of 30001 bytes, more than the 30000 that fit into a message"),
        (
            np.random.default_rng(7).integers(0, 256, (100, 200, 3), np.uint8),
            r"200x100 pixels are 60000 bytes, as PNG 60\d{3}, more than the 30000 that fit .*: scale the picture down",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_its_size(limit: int, picture: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as caught:
        sendable(to_message(picture))
    assert (caught.value.reason, caught.value.field) == ("IMAGE_TOO_LARGE", "image")


def test_without_pillow_too_many_pixels_are_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidArgument, match=r"are 60000 bytes, more than .*; with Pillow \(pip install"):
        sendable(to_message(np.zeros((100, 200, 3), np.uint8)))
