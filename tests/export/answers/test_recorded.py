"""answers.npz, which others made: read, or refused in one line, without pickles and within limits."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resonnx_export.answers.recorded import MOST_BYTES, read_answers
from resonnx_export.errors import BadInput

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (4, 8, 6, 3), np.uint8)
LOGITS = RNG.normal(size=(4, 5)).astype(np.float32)


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "answers.npz", **arrays)
    return folder / "answers.npz"


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as refused:
        read_answers(path)
    message = str(refused.value)
    assert path.name in message
    assert len(message.splitlines()) == 1
    return message


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    answers = read_answers(saved(tmp_path, pixels=PIXELS, logits=LOGITS.astype(np.float64), names=["a"]))
    np.testing.assert_array_equal(answers.pixels, PIXELS)
    np.testing.assert_allclose(answers.logits, LOGITS)
    assert answers.exact, "nothing else is said"
    assert answers.ignored == ("names",)
    assert str(answers) == "4 pictures"


@pytest.mark.parametrize(
    ("fields", "exact"),
    [
        ({"device": "cpu", "dtype": "torch.float32"}, True),
        ({"device": "cuda:0", "dtype": "float32"}, False),
        ({"device": "cpu", "dtype": "float32", "tf32": True}, False),
        ({"dtype": b"bfloat16"}, False),
        ({"logits": LOGITS.astype(np.float16)}, False),
    ],
)
def test_how_they_were_recorded(fields: dict[str, Any], exact: bool, tmp_path: Path) -> None:
    assert read_answers(saved(tmp_path, **{"pixels": PIXELS, "logits": LOGITS, **fields})).exact == exact


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "one of logits [N,K], tokens [N,T] and captions [N], and holds none"),
        ({"pixels": PIXELS, "outputs": LOGITS}, "but 'outputs'"),
        ({"pixels": PIXELS, "logits": LOGITS, "captions": ["a"] * 4}, "logits and captions"),
        ({"logits": LOGITS}, "either pixels"),
        ({"pixels": PIXELS, "images": [b"x"] * 4, "logits": LOGITS}, "either pixels"),
        ({"pixels": PIXELS[:0], "logits": LOGITS[:0]}, "0 pictures"),
        ({"pixels": PIXELS, "logits": LOGITS[:3]}, "logits has 3 rows for 4 pictures"),
        ({"pixels": PIXELS, "logits": LOGITS[:, :0]}, "logits has shape [4, 0]"),
        ({"pixels": PIXELS, "logits": LOGITS[0]}, "'logits' of shape [5]"),
        ({"pixels": PIXELS, "logits": LOGITS * np.float32("nan")}, "20 of 20 values of logits are NaN"),
        ({"pixels": PIXELS, "logits": LOGITS * np.float64(1e300)}, "values of logits are NaN or infinite"),
        ({"pixels": PIXELS.astype(np.float32), "logits": LOGITS}, "'pixels' of type <f4; expected |u1"),
        ({"pixels": PIXELS[..., :1], "logits": LOGITS}, "'pixels' of shape [4, 8, 6, 1]"),
        ({"pixels": PIXELS, "logits": LOGITS.astype(np.int64)}, "'logits' of type <i8; expected <f4 or <f2 or <f8"),
        ({"pixels": PIXELS, "tokens": LOGITS.astype(np.int64) - 9}, "ids are 0 or more"),
        ({"images": PIXELS.reshape(-1), "logits": LOGITS}, "image_bytes, the size of each file, is missing"),
        ({"images": PIXELS.reshape(-1), "image_bytes": [9] * 4, "logits": LOGITS}, "add up to the 576 bytes"),
        ({"images": PIXELS.reshape(-1), "image_bytes": [-9, 585, 0, 0], "logits": LOGITS}, "must be positive"),
        ({"images": np.array([b"a", None], object), "logits": LOGITS}, "stored as pickles, which are not read"),
        ({"pixels": PIXELS, "captions": np.array([b"\xff"] * 4)}, "captions is not text"),
    ],
)
def test_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(saved(tmp_path, **arrays))


def test_text_of_impossible_characters(tmp_path: Path) -> None:
    captions = np.full((4, 1), 0x7FFFFFFF, np.uint32).view("<U1")[:, 0]
    assert "captions is not text" in refusal(saved(tmp_path, pixels=PIXELS, captions=captions))


def header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(folder: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(folder / "answers.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return folder / "answers.npz"


def test_files_that_would_take_memory_are_refused_before_they_do(tmp_path: Path) -> None:
    """A zip bomb; a header of an absurd size; a long header."""
    bomb = zipped(tmp_path, pixels=header("(4, 4096, 4096, 3)") + bytes(MOST_BYTES))
    tracemalloc.start()
    try:
        assert "unpacks to" in refusal(bomb)
        assert "whose header says" in refusal(zipped(tmp_path, pixels=header("(99999, 99999, 99999, 3)") + bytes(99)))
        assert "whose header says" in refusal(zipped(tmp_path, captions=header("(4,)", "<U99999999") + bytes(99)))
        assert "not an array" in refusal(zipped(tmp_path, pixels=b"\x93NUMPY\x01\x00\xff\xff" + bytes(70_000)))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    sparse = tmp_path / "sparse.npz"
    with sparse.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert f"{MOST_BYTES + 1} bytes; at most {MOST_BYTES}" in refusal(sparse)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)
    assert "cannot be read: No such file" in refusal(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("logits\n")
    assert "damaged, or not an .npz file" in refusal(tmp_path / "text.npz")


def test_300_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, pixels=PIXELS, logits=LOGITS, device="cpu", dtype="float32", tf32=False)
    images = io.BytesIO()
    np.savez(images, images=[b"abc", b"de"], inputs=np.zeros((2, 3, 4, 4), np.float32), captions=["a cat", "a dog"])
    rng = np.random.default_rng(2)
    messages = []
    for number in range(300):
        content = bytearray((whole, images)[number % 2].getvalue())
        if number % 5 == 0:
            del content[rng.integers(len(content)) :]
        elif number % 5 == 1:
            start = int(rng.integers(len(content)))
            del content[start : start + int(rng.integers(1, 99))]
        else:
            for place in rng.integers(len(content), size=1 + number % 7):
                content[place] = rng.integers(256)
        path = tmp_path / "damaged.npz"
        path.write_bytes(content)
        try:
            read_answers(path)
        except BadInput as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert {len(message.splitlines()) for message in messages} == {1}


def test_a_long_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "answers.npz", "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    assert "holds more than 10000 arrays" in refusal(path)
