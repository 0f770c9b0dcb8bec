"""golden.npz: examples that others are judged by, or a refusal, at the price of its headers."""

import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import (
    EncodedPicture,
    Golden,
    dump_golden,
    judge_words,
    parse_golden,
)

IMAGES = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
LOGITS = np.array([[1, -2, 3], [0, 5, 4]], np.float32)
TOKENS = np.array([[1, 2, 3], [4, 2, -1]])
LOG_PROBS = np.array([[-1, -2, -0.5], [-1, -0.1, 0]], np.float32)
CLASSIFIER = pb.Manifest(
    task=pb.TASK_CLASSIFIER,
    input=pb.ImageInput(width=6, height=4),
    classifier=pb.ClassifierSpec(labels=["a", "b", "c"]),
)
CAPTIONER = pb.Manifest(
    task=pb.TASK_CAPTIONER,
    input=pb.ImageInput(width=6, height=4),
    captioner=pb.CaptionerSpec(vocabulary=["<end>", "a", "b", "c", "d"], max_tokens=3),
)
ENCODED = (EncodedPicture(b"\xff\xd8file", IMAGES[0]), EncodedPicture(b"\x89PNG", IMAGES[1]))


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _twice(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(2):
            with warnings.catch_warnings(action="ignore"):
                archive.writestr(name, content)
    return buffer.getvalue()


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _header(shape: object, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("manifest", [CLASSIFIER, None])
def test_classifiers(manifest: pb.Manifest | None) -> None:
    golden = parse_golden(dump_golden(Golden(IMAGES, logits=LOGITS, encoded=ENCODED)), manifest)
    assert np.array_equal(golden.images, IMAGES)
    assert golden.logits is not None
    assert np.array_equal(golden.logits, LOGITS)
    assert [picture.file for picture in golden.encoded] == [b"\xff\xd8file", b"\x89PNG"]
    assert all(np.array_equal(picture.pixels, pixels) for picture, pixels in zip(golden.encoded, IMAGES, strict=True))


@pytest.mark.parametrize("manifest", [CAPTIONER, None])
def test_captioners(manifest: pb.Manifest | None) -> None:
    golden = parse_golden(dump_golden(Golden(IMAGES, tokens=TOKENS, log_probs=LOG_PROBS)), manifest)
    assert golden.tokens is not None
    assert golden.log_probs is not None
    assert np.array_equal(golden.tokens, TOKENS)
    assert np.array_equal(golden.log_probs, LOG_PROBS)
    assert golden.encoded == ()


def test_arrays_in_the_other_order() -> None:
    golden = parse_golden(_npz(images=np.asfortranarray(IMAGES), logits=np.asfortranarray(LOGITS)), CLASSIFIER)
    assert np.array_equal(golden.images, IMAGES)
    assert golden.logits is not None
    assert np.array_equal(golden.logits, LOGITS)


def _bomb() -> bytes:
    """3 GB of zeros in 3 MB, as deflate can."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros, size = bytes(1 << 24), 3 << 30
    start = _npy(_header((size,)))
    packed = deflate.compress(start)
    # One piece repeats: only the first and the last are really compressed.
    piece = deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)
    packed += piece + (deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)) * (size // len(zeros) - 1)
    packed += deflate.flush()
    name = b"encoded_0.npy"
    total = len(start) + size
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), total, len(name), 0) + name
    central = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), total, len(name), 0, 0, 0, 0, 0, 0
    )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central) + len(name), len(local) + len(packed), 0)
    return local + packed + central + name + end


def _lying(size: int) -> bytes:
    """A member whose directory entry tells another size than its header."""
    content = bytearray(_zip({"images.npy": _npy(_header((1, 4, 6, 3)), IMAGES[:1].tobytes())}))
    at = content.rindex(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", size)
    return bytes(content)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"PK", "it is damaged, or not an .npz file"),
    "nothing": (lambda: b"", "it is damaged, or not an .npz file"),
    "an empty zip": (lambda: _zip({}), "must hold pictures and either logits, or tokens and log_probs"),
    "3 GB": (_bomb, "it unpacks to 3221225549 bytes; at most 67110016"),
    "many of some size": (
        lambda: _zip({f"encoded_{i}.npy": bytes(30 << 20) for i in range(3)}),
        "it unpacks to 94371840 bytes; at most 67110016",
    ),
    "a header of 4 TB": (
        lambda: _zip({"images.npy": _npy(_header((1 << 33, 4, 6, 3)))}),
        "'images' of 85 bytes, whose header says shape [8589934592, 4, 6, 3]",
    ),
    "a header of nothing in four dimensions": (
        lambda: _zip({"images.npy": _npy(_header((0, 4, 6, 3)))}),
        "must hold pictures and either",
    ),
    "no pictures": (lambda: _npz(images=IMAGES[:0], logits=LOGITS[:0]), "holds logits [0, 3] of 0 pictures"),
    "a longer directory entry": (lambda: _lying(10_000_000), "'images' of 10000000 bytes, whose header says"),
    "a shorter directory entry": (lambda: _lying(90), "it is damaged, or not an .npz file"),
    "a huge header": (lambda: _zip({"images.npy": _npy(" " * 60_000)}), "'images', which is not an array"),
    "a header that is code": (
        lambda: _zip({"images.npy": _npy("{'descr': __import__('os'), 'shape': (1,), }")}),
        "'images', which is not an array of numbers",
    ),
    "deep nesting": (lambda: _zip({"images.npy": _npy(_header("(" * 400 + ")" * 400))}), "not an array of numbers"),
    "a shape below zero": (lambda: _zip({"images.npy": _npy(_header((-1, 4, 6, 3)))}), "not an array of numbers"),
    "objects": (
        lambda: _npz(images=np.array([{}], object), logits=LOGITS),
        "holds 'images' of type |O; expected |u1",
    ),
    "numbers of another type": (
        lambda: _npz(images=IMAGES.astype(np.float32), logits=LOGITS),
        "holds 'images' of type <f4; expected |u1",
    ),
    "pictures of another size": (
        lambda: _npz(images=IMAGES[:, :3], logits=LOGITS),
        "holds 'images' of shape [2, 3, 6, 3]; expected [N, 4, 6, 3]",
    ),
    "other classes": (
        lambda: _npz(images=IMAGES, logits=LOGITS[:, :2]),
        "holds 'logits' of shape [2, 2]; expected [N, 3]",
    ),
    "too many pictures": (
        lambda: _npz(images=np.repeat(IMAGES, 5, 0), logits=np.repeat(LOGITS, 5, 0)),
        "holds 10 pictures; at most 8",
    ),
    "a zip in it": (lambda: _zip({"images.npy": _zip({"images.npy": b""})}), "'images', which is not an array"),
    "what is not expected": (lambda: _npz(images=IMAGES, logits=LOGITS, more=LOGITS), "holds 'more.npy', which is not"),
    "two of one name": (
        lambda: _twice("images.npy", _npy(_header(IMAGES.shape), IMAGES.tobytes())),
        "it holds two arrays of one name",
    ),
    "what is no array": (lambda: _zip({"README": b""}), "holds 'README', which is not expected"),
    "another compression": (
        lambda: _zip({"images.npy": _npy(_header((1,)))}, zipfile.ZIP_LZMA),
        "with an unsupported compression",
    ),
    "a file without pixels": (
        lambda: _npz(images=IMAGES, logits=LOGITS, encoded_0=np.zeros(3, np.uint8)),
        "must hold pictures and",
    ),
    "no answers": (lambda: _npz(images=IMAGES), "must hold pictures and either logits, or tokens and log_probs"),
    "answers of both kinds": (
        lambda: _npz(images=IMAGES, logits=LOGITS, tokens=TOKENS, log_probs=LOG_PROBS),
        "holds 'tokens' of shape [2, 3]; expected [N, 0]",
    ),
    "answers of fewer": (lambda: _npz(images=IMAGES, logits=LOGITS[:1]), "holds logits [1, 3] of 2 pictures"),
    "an answer that is none": (lambda: _npz(images=IMAGES, logits=LOGITS * np.float32(np.nan)), "logits that are not"),
    "an infinite answer": (lambda: _npz(images=IMAGES, logits=LOGITS / np.float32(0)), "logits that are not finite"),
}


@pytest.mark.filterwarnings("ignore:.*encountered in divide")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, reason = REFUSED[case]
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(ModelRefused) as refused:
            parse_golden(content, CLASSIFIER)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason in refused.value.message
    assert len(refused.value.message) < 300
    assert most < 2_000_000, "bytes were taken for what is refused"


def test_what_no_manifest_could_say_is_refused_without_one() -> None:
    """4096 a side, eight pictures and eight picture files' pixels: less than 1 GB in all."""
    with pytest.raises(ModelRefused, match="unpacks to 3221225549 bytes; at most 872415232"):
        parse_golden(_bomb())


@pytest.mark.parametrize(
    "tokens",
    [
        [[1, 2, 3], [4, -1, 2]],
        [[1, 2, 3], [-1, -1, -1]],
        [[1, 2, 3], [-1, 2, 3]],
        [[1, 2, 3], [5, 2, 3]],
        [[1, 2, 3], [1 << 60, 2, 3]],
    ],
)
def test_tokens_that_are_no_captions(tokens: list[list[int]]) -> None:
    content = _npz(images=IMAGES, tokens=np.array(tokens), log_probs=LOG_PROBS)
    with pytest.raises(ModelRefused, match="holds tokens that are not captions"):
        parse_golden(content, CAPTIONER)


def test_log_probabilities_that_are_none() -> None:
    for value in (np.nan, -np.inf):
        log_probs = LOG_PROBS.copy()
        log_probs[1, 1] = value
        with pytest.raises(ModelRefused, match="log_probs that are not finite"):
            parse_golden(_npz(images=IMAGES, tokens=TOKENS, log_probs=log_probs), CAPTIONER)


def test_drift_is_read_and_limited() -> None:
    drift = np.full(LOG_PROBS.shape, 0.5, np.float32)
    content = dump_golden(Golden(IMAGES, tokens=TOKENS, log_probs=LOG_PROBS, drift=drift))
    read = parse_golden(content, CAPTIONER).drift
    assert read is not None
    assert np.array_equal(read, drift)
    for value, refusal in ((np.nan, "not finite"), (-1e-3, r"not within 0..0\.5"), (0.51, r"not within 0..0\.5")):
        wrong = drift.copy()
        wrong[1, 0] = value
        with pytest.raises(ModelRefused, match=refusal):
            parse_golden(_npz(images=IMAGES, tokens=TOKENS, log_probs=LOG_PROBS, drift=wrong), CAPTIONER)
    with pytest.raises(ModelRefused, match="holds drift"):
        parse_golden(_npz(images=IMAGES, tokens=TOKENS, log_probs=LOG_PROBS, drift=drift[:1]), CAPTIONER)
    with pytest.raises(ModelRefused, match="either logits, or tokens"):
        parse_golden(_npz(images=IMAGES, logits=LOGITS, drift=drift))


def test_words_may_be_off_by_their_drift_or_the_bound() -> None:
    drift = np.zeros_like(LOG_PROBS)
    drift[0, 1] = 0.4
    golden = Golden(IMAGES, tokens=TOKENS, log_probs=LOG_PROBS, drift=drift)
    scale = max(1.0, float(np.abs(LOG_PROBS).max()))
    for position, off, passes in (
        (1, 0.39, True),
        (1, 0.41, False),
        (0, 0.009 * scale, True),
        (0, 0.011 * scale, False),
    ):
        log_probs = LOG_PROBS[:1, position] + np.float32(off)
        verdict = judge_words(golden, np.array([0]), position, TOKENS[:1, position], log_probs, 0.01)
        assert verdict.passed == passes, verdict.detail
    assert not judge_words(golden, np.array([0]), 1, TOKENS[:1, 1] + 1, LOG_PROBS[:1, 1], 0.01).passed
    assert not judge_words(golden, np.array([0]), 1, TOKENS[:1, 1], np.array([np.nan], np.float32), 0.01).passed


@given(st.data())
def test_damage_of_any_kind_is_refused_or_changes_nothing_that_is_read(data: st.DataObject) -> None:
    content = bytearray(dump_golden(Golden(IMAGES, logits=LOGITS, encoded=ENCODED)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    try:
        golden = parse_golden(bytes(content[:end]), CLASSIFIER)
    except ModelRefused:
        return
    assert golden.images.shape == IMAGES.shape
    assert golden.logits is not None
    assert np.array_equal(golden.images, IMAGES)
    assert np.array_equal(golden.logits, LOGITS)
