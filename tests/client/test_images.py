"""What counts as a picture, and how it travels."""

import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resonnx._images import to_message

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


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
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
        (PIXELS[:, :, 0], r"uint8 \[2, 3\]"),
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
