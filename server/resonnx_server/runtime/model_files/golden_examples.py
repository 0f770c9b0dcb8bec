"""Golden examples: pictures with PyTorch's outputs, and the comparison of other outputs with them.

The exporter writes golden.npz and checks its export with `judge_*`; the server checks every provider and precision with
the same functions before it serves.
"""

import io
import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1.manifest_pb2 import ImageInput, Manifest

from resonnx_server.errors import BadImage, ModelRefused
from resonnx_server.runtime.decoding.sequence import Sequence
from resonnx_server.runtime.model_files.manifest import GOLDEN, MAX_SIDE
from resonnx_server.runtime.model_files.npz import BadArchive, Expected, read_npz
from resonnx_server.runtime.pictures.images import Pixels, load
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import Array
from resonnx_server.runtime.video.clips import Clips

Float = npt.NDArray[np.float32]

MAX_PICTURES: Final = 8
# Of all clips together.
MAX_CLIP_FRAMES: Final = 32
# Of a log-probability. Words that rounding may move farther are not compared: any output would pass.
MAX_DRIFT: Final = 0.5
# If the best two log-probabilities are closer than this, rounding decides which token wins.
NEAR_TIE: Final = 1e-4
# Limit for picture files, outputs and headers in golden.npz; pixels are counted separately.
_MOST_OTHER_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file and its pixels [H,W,3] after the training preprocessing."""

    file: bytes
    pixels: Pixels


@dataclass(frozen=True)
class Golden:
    """Pictures uint8 [G,H,W,3] with PyTorch's logits [G,K], or tokens and log_probs [G,T] (padded with -1 and 0).

    Tokens that do not reach the end token or T are the beginning of a caption, whose later words are not compared.
    `drift` [G,T] is how far a log-probability may differ because a recurrent network amplifies rounding, 0 to
    MAX_DRIFT; None where the bound of fp32 is greater everywhere.

    Of G clips of `lengths` int64 [G] the pictures are all frames, [F,H,W,3], one clip after the other. Clips of given
    features have no pictures, [0,0,0,3], but `features` float32 [F,D].
    """

    images: Pixels
    logits: Float | None = None
    tokens: npt.NDArray[np.int64] | None = None
    log_probs: Float | None = None
    drift: Float | None = None
    encoded: tuple[EncodedPicture, ...] = field(default=())
    lengths: npt.NDArray[np.int64] | None = None
    features: Float | None = None

    @property
    def clips(self) -> Clips:
        """The clips of a video classifier."""
        assert self.lengths is not None
        return Clips(self.images if self.features is None else self.features, self.lengths)


@dataclass(frozen=True)
class Verdict:
    """Whether outputs agree with the reference; `deviation` is max|delta| / max|reference|."""

    passed: bool
    deviation: float
    detail: str


def dump_golden(golden: Golden) -> bytes:
    """Return `golden` as the content of golden.npz."""
    arrays: dict[str, Array] = {"images": golden.images}
    for name in ("logits", "tokens", "log_probs", "drift", "lengths", "features"):
        if (value := getattr(golden, name)) is not None:
            arrays[name] = value
    for i, picture in enumerate(golden.encoded):
        arrays[f"encoded_{i}"] = np.frombuffer(picture.file, np.uint8)
        arrays[f"pixels_{i}"] = picture.pixels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def parse_golden(content: bytes, manifest: Manifest | None = None) -> Golden:
    """Read golden.npz; shapes in its headers are checked before anything is unpacked.

    Args:
        content: The file.
        manifest: The model's manifest; without it, only limits that hold for any manifest are checked.

    Raises:
        ModelRefused: It is damaged, too large, or does not fit the manifest.
    """
    pixel_bytes = manifest.input.height * manifest.input.width * 3 if manifest else MAX_SIDE**2 * 3
    stored = MAX_CLIP_FRAMES if manifest is not None and manifest.HasField("video_classifier") else MAX_PICTURES
    most_bytes = (stored + MAX_PICTURES) * pixel_bytes + _MOST_OTHER_BYTES
    try:
        arrays = read_npz(content, partial(_expected, manifest), most_bytes)
    except BadArchive as error:
        raise ModelRefused(f"{GOLDEN} is not readable as golden examples: it {error}") from None
    names = [f"encoded_{i}" for i in range(sum(name.startswith("encoded") for name in arrays))]
    pixels = [name.replace("encoded", "pixels") for name in names]
    answers = {"logits"} if "logits" in arrays else {"tokens", "log_probs", *({"drift"} & arrays.keys())}
    clips = {"lengths", *({"features"} & arrays.keys())} if "lengths" in arrays else set[str]()
    if arrays.keys() != {"images", *answers, *names, *pixels, *clips}:
        raise ModelRefused(f"{GOLDEN} must hold pictures and either logits, or tokens and log_probs")
    most = MAX_CLIP_FRAMES if clips else MAX_PICTURES
    for pictures, limit in ((arrays["images"], most), (names, MAX_PICTURES)):
        if len(pictures) > limit:
            raise ModelRefused(f"{GOLDEN} holds {len(pictures)} pictures; at most {limit}")
    encoded = (EncodedPicture(arrays[name].tobytes(), arrays[shown]) for name, shown in zip(names, pixels, strict=True))
    golden = Golden(
        arrays["images"],
        arrays.get("logits"),
        arrays.get("tokens"),
        arrays.get("log_probs"),
        arrays.get("drift"),
        tuple(encoded),
        arrays.get("lengths"),
        arrays.get("features"),
    )
    _check_answers(golden, manifest)
    return golden


def _expected(manifest: Manifest | None, name: str) -> Expected | None:
    """Return type and shape of an array of golden.npz by its name; None if it must not be there."""
    height = width = labels = max_tokens = size = None
    if manifest is not None:
        height, width = manifest.input.height, manifest.input.width
        # 0 for the other tasks, which matches no output.
        labels = len(manifest.classifier.labels) or len(manifest.video_classifier.labels)
        max_tokens, size = manifest.captioner.max_tokens, manifest.video_classifier.feature_size
    if re.fullmatch(r"encoded_\d", name):
        return Expected(np.uint8, (None,))
    if re.fullmatch(r"pixels_\d", name):
        return Expected(np.uint8, (height, width, 3))
    return {
        "images": Expected(np.uint8, (None, height, width, 3)),
        "logits": Expected(np.float32, (None, labels)),
        "tokens": Expected(np.int64, (None, max_tokens)),
        "log_probs": Expected(np.float32, (None, max_tokens)),
        "drift": Expected(np.float32, (None, max_tokens)),
        "lengths": Expected(np.int64, (None,)),
        "features": Expected(np.float32, (None, size)),
    }.get(name)


def _check_answers(golden: Golden, manifest: Manifest | None) -> None:
    """Raise ModelRefused unless each picture or clip has a valid output."""
    counted = len(golden.images) if golden.lengths is None else _check_clips(golden)
    if manifest is not None and manifest.HasField("video_classifier") != (golden.lengths is not None):
        raise ModelRefused(f"{GOLDEN} holds {'pictures' if golden.lengths is None else 'clips'}, unlike the manifest")
    for name in ("logits", "tokens", "log_probs", "drift"):
        answers = getattr(golden, name)
        if answers is None:
            continue
        if len(answers) != counted or answers.size == 0:
            kind = "pictures" if golden.lengths is None else "clips"
            raise ModelRefused(f"{GOLDEN} holds {name} {list(answers.shape)} of {counted} {kind}")
        if not np.isfinite(answers).all():
            raise ModelRefused(f"{GOLDEN} holds {name} that are not finite")
    if golden.drift is not None and not ((golden.drift >= 0) & (golden.drift <= MAX_DRIFT)).all():
        raise ModelRefused(f"{GOLDEN} holds drift that is not within 0..{MAX_DRIFT:g}")
    if golden.tokens is not None:
        said = golden.tokens >= 0
        size = len(manifest.captioner.vocabulary) if manifest is not None else np.inf
        # Padding is at the end only.
        if not said[:, 0].all() or (said[:, 1:] & ~said[:, :-1]).any() or (golden.tokens >= size).any():
            raise ModelRefused(f"{GOLDEN} holds tokens that are not captions")


def _check_clips(golden: Golden) -> int:
    """Return the number of clips. Raises ModelRefused unless their lengths add up to the frames."""
    frames, lengths = golden.clips.frames, golden.clips.lengths
    if len(frames) > MAX_CLIP_FRAMES or (golden.features is not None and len(golden.images)):
        raise ModelRefused(
            f"{GOLDEN} holds {len(frames)} frames; at most {MAX_CLIP_FRAMES}, as pictures or as features"
        )
    if not ((lengths >= 1) & (lengths <= len(frames))).all() or lengths.sum() != len(frames):
        raise ModelRefused(f"{GOLDEN} holds lengths of clips that do not add up to its {len(frames)} frames")
    if golden.features is not None and not np.isfinite(golden.features).all():
        raise ModelRefused(f"{GOLDEN} holds features that are not finite")
    return len(lengths)


def check_recipe(golden: Golden, recipe: ImageInput) -> None:
    """Raise ModelRefused unless this host decodes and resizes each stored file to its stored pixels.

    Uses the recipe only, not the server's picture options.
    """
    options = PictureOptions(recipe)
    for picture in golden.encoded:
        try:
            same = np.array_equal(load(picture.file, options), picture.pixels)
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
    return _verdict(deviation, max_deviation, "reference", int(differs.sum()), f"{len(reference)} top classes")


def judge_captions(golden: Golden, sequences: list[Sequence], max_deviation: float) -> Verdict:
    """Compare captions token by token, as far as the golden captions go.

    Their log-probabilities may differ by max_deviation * max|reference| or the golden captions' drift.
    """
    assert golden.tokens is not None
    assert golden.log_probs is not None
    found, equal, differing = np.zeros_like(golden.log_probs), np.zeros(golden.tokens.shape, np.bool_), 0
    for row, (tokens, sequence) in enumerate(zip(golden.tokens, sequences, strict=True)):
        length = int((tokens >= 0).sum())
        # A golden caption that ends has the end token, or as many tokens as decoding permits.
        compared = sequence.tokens[:length]
        if [token.id for token in compared] != tokens[:length].tolist():
            differing += 1
            continue
        equal[row, :length], found[row, :length] = True, [token.log_prob for token in compared]
    scale = _scale(golden)
    drift = np.zeros_like(found) if golden.drift is None else golden.drift
    deltas = _deltas(found[equal], golden.log_probs[equal], scale)
    return _words_verdict(deltas, drift[equal] / scale, max_deviation, differing, f"{len(sequences)} captions")


def judge_words(
    golden: Golden, pictures: Array, position: int, ids: Array, log_probs: Array, max_deviation: float
) -> Verdict:
    """Compare one word of several captions, on the same scale as judge_captions.

    Args:
        golden: Golden captions.
        pictures: Index of each word's picture, int [N].
        position: Position of the words in their captions; shorter captions are not compared.
        ids: Token ids [N].
        log_probs: Their log-probabilities [N].
        max_deviation: Bound, as a share of max|log-probability| of all captions.
    """
    assert golden.tokens is not None
    assert golden.log_probs is not None
    scale = _scale(golden)
    tokens, expected = golden.tokens[pictures, position], golden.log_probs[pictures, position]
    drift = np.zeros_like(expected) if golden.drift is None else golden.drift[pictures, position]
    compared = tokens >= 0
    differing = int((ids != tokens)[compared].sum())
    deltas = _deltas(log_probs[compared], expected[compared], scale)
    return _words_verdict(deltas, drift[compared] / scale, max_deviation, differing, f"{len(ids)} words")


def _scale(golden: Golden) -> float:
    assert golden.log_probs is not None
    # Sure words have log-probabilities close to 0.
    return max(float(np.abs(golden.log_probs).max()), 1.0)


def _deltas(found: Array, expected: Float, scale: float) -> Float:
    """Return |delta| [N] as shares of the scale; infinite if a value is not finite."""
    if not np.isfinite(found).all():
        return np.full(len(found), np.inf, np.float32)
    return np.asarray(np.abs(found - expected) / scale, np.float32)


def _words_verdict(deltas: Float, drift: Float, max_deviation: float, differing: int, compared: str) -> Verdict:
    """Judge |delta| [N] of equal words, as shares of the scale; the verdict is about the one nearest its bound."""
    if not len(deltas):
        return _verdict(0.0, max_deviation, "log-probability", differing, compared)
    bounds = np.maximum(drift, max_deviation)
    nearest = int((deltas / bounds).argmax())
    verdict = _verdict(float(deltas[nearest]), float(bounds[nearest]), "log-probability", differing, compared)
    return replace(verdict, deviation=float(deltas.max()))


def _verdict(deviation: float, bound: float, scale: str, differing: int, compared: str) -> Verdict:
    detail = f"max|delta| {deviation:.2g} of max|{scale}| (bound {bound:.2g})"
    if differing:
        detail += f", {differing} of {compared} differ"
    return Verdict(differing == 0 and deviation <= bound, deviation, detail)
