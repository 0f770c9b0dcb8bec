"""Golden examples: pictures with what PyTorch answered, and the rule by which an answer agrees with them.

The exporter writes golden.npz and judges its own export by `judge_*`; the server judges every provider and precision
by the same functions before it serves.
"""

import io
import zipfile
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec, ImageInput

from resonnx_server.errors import BadImage, ModelRefused
from resonnx_server.runtime.images import Pixels, load
from resonnx_server.runtime.sequence import Sequence
from resonnx_server.runtime.session import Array

Float = npt.NDArray[np.float32]

MAX_PICTURES: Final = 8
# Below this distance of the best two log-probabilities, which token wins is rounding.
NEAR_TIE: Final = 1e-4


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file and the pixels [H,W,3] that the source recipe makes of it."""

    file: bytes
    pixels: Pixels


@dataclass(frozen=True)
class Golden:
    """Stored pictures uint8 [G,H,W,3] with the reference's logits [G,K], or tokens and log_probs [G,T] (-1 pads)."""

    images: Pixels
    logits: Float | None = None
    tokens: npt.NDArray[np.int64] | None = None
    log_probs: Float | None = None
    encoded: tuple[EncodedPicture, ...] = field(default=())


@dataclass(frozen=True)
class Verdict:
    """Whether answers agree with the reference; `deviation` is max|delta| / max|reference|."""

    passed: bool
    deviation: float
    detail: str


def dump_golden(golden: Golden) -> bytes:
    """Return `golden` as the content of golden.npz."""
    arrays: dict[str, Array] = {"images": golden.images}
    for name in ("logits", "tokens", "log_probs"):
        if (value := getattr(golden, name)) is not None:
            arrays[name] = value
    for i, picture in enumerate(golden.encoded):
        arrays[f"encoded_{i}"] = np.frombuffer(picture.file, np.uint8)
        arrays[f"pixels_{i}"] = picture.pixels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def parse_golden(content: bytes) -> Golden:
    """Read golden.npz. Raises ModelRefused if it is not one."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        encoded: list[EncodedPicture] = []
        while f"encoded_{len(encoded)}" in arrays:
            i = len(encoded)
            encoded.append(EncodedPicture(arrays[f"encoded_{i}"].tobytes(), arrays[f"pixels_{i}"]))
        golden = Golden(
            arrays["images"], arrays.get("logits"), arrays.get("tokens"), arrays.get("log_probs"), tuple(encoded)
        )
    except (KeyError, ValueError, OSError, zipfile.BadZipFile):
        raise ModelRefused("golden.npz is not readable as golden examples") from None
    if (golden.logits is None) == (golden.tokens is None) or len(golden.images) == 0:
        raise ModelRefused("golden.npz must hold pictures and either logits or tokens")
    return golden


def check_recipe(golden: Golden, recipe: ImageInput) -> None:
    """Raise ModelRefused unless this host's decoder and resize give the stored pixels of each stored file."""
    for picture in golden.encoded:
        try:
            same = np.array_equal(load(picture.file, recipe), picture.pixels)
        except BadImage:
            same = False
        if not same:
            raise ModelRefused("a golden picture file does not decode to its stored pixels on this host")


def judge_logits(reference: Float, logits: Float, max_deviation: float) -> Verdict:
    """Compare logits [N,K]: max|delta| <= max_deviation * max|reference|, and equal top classes beyond that margin."""
    scale = float(np.abs(reference).max())
    difference = float(np.abs(logits - reference).max()) if np.isfinite(logits).all() else float("inf")
    deviation = difference / scale if scale else difference
    top_two = np.sort(reference, axis=1)[:, -2:]
    clear = (top_two[:, -1] - top_two[:, 0] > max_deviation * scale) if reference.shape[1] > 1 else np.ones(1, bool)
    differs = clear & (reference.argmax(axis=1) != logits.argmax(axis=1))
    passed = deviation <= max_deviation and not differs.any()
    detail = f"max|delta| {deviation:.2g} of max|reference| (bound {max_deviation:.2g})"
    if differs.any():
        detail += f", {int(differs.sum())} of {len(reference)} top classes differ"
    return Verdict(passed, deviation, detail)


def judge_captions(golden: Golden, sequences: list[Sequence], max_deviation: float) -> Verdict:
    """Compare captions token by token, and their log-probabilities by max_deviation * max|reference|."""
    assert golden.tokens is not None
    assert golden.log_probs is not None
    scale = max(float(np.abs(golden.log_probs).max()), 1.0)
    differing, difference = 0, 0.0
    for tokens, log_probs, sequence in zip(golden.tokens, golden.log_probs, sequences, strict=True):
        length = int((tokens >= 0).sum())
        if [token.id for token in sequence.tokens] != tokens[:length].tolist():
            differing += 1
            continue
        found = np.array([token.log_prob for token in sequence.tokens], np.float32)
        delta = np.abs(found - log_probs[:length]).max() if np.isfinite(found).all() else np.inf
        difference = max(difference, float(delta))
    deviation = difference / scale
    detail = f"max|delta| {deviation:.2g} of max|log-probability| (bound {max_deviation:.2g})"
    if differing:
        detail += f", {differing} of {len(sequences)} captions differ"
    return Verdict(differing == 0 and deviation <= max_deviation, deviation, detail)


def judge_words(
    golden: Golden, pictures: Array, position: int, ids: Array, log_probs: Array, max_deviation: float
) -> Verdict:
    """Compare one word of each of some captions, on the scale of all captions, as judge_captions does.

    Args:
        golden: With captions.
        pictures: Which picture each word is said of [N].
        position: The word's place in its caption; captions that end before are not compared.
        ids: What was said [N].
        log_probs: With which log-probability [N].
        max_deviation: See judge_captions.
    """
    assert golden.tokens is not None
    assert golden.log_probs is not None
    scale = max(float(np.abs(golden.log_probs).max()), 1.0)
    tokens, expected = golden.tokens[pictures, position], golden.log_probs[pictures, position]
    compared = tokens >= 0
    differing = int((ids != tokens)[compared].sum())
    delta = np.abs(log_probs - expected)[compared]
    deviation = float(delta.max(initial=0.0)) / scale if np.isfinite(delta).all() else float("inf")
    detail = f"max|delta| {deviation:.2g} of max|log-probability| (bound {max_deviation:.2g})"
    if differing:
        detail += f", {differing} of {len(ids)} words differ"
    return Verdict(differing == 0 and deviation <= max_deviation, deviation, detail)


def pack_captions(sequences: list[Sequence], spec: CaptionerSpec) -> tuple[npt.NDArray[np.int64], Float]:
    """Return tokens int64 [G,T] and log-probabilities float32 [G,T] of reference captions, padded with -1 and 0."""
    tokens = np.full((len(sequences), spec.max_tokens), -1, np.int64)
    log_probs = np.zeros(tokens.shape, np.float32)
    for row, sequence in enumerate(sequences):
        length = len(sequence.tokens)
        tokens[row, :length] = [token.id for token in sequence.tokens]
        log_probs[row, :length] = [token.log_prob for token in sequence.tokens]
    return tokens, log_probs
