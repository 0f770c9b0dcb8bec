"""Builds golden examples: a few pictures with PyTorch's predictions, and picture files with the recipe's own pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.decoding.sequence import pack_captions
from resonnx_server.runtime.model_files.golden_examples import (
    MAX_DRIFT,
    MAX_PICTURES,
    EncodedPicture,
    Golden,
)
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.examples import example_files
from resonnx_export.pictures.recipe import training_pixels
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof import reference
from resonnx_export.proof.drift import Rounding, comparable_words, permitted_drift
from resonnx_export.proof.parity import FP32_BOUND

# Other pictures than the parity check's, whose seeds are batch sizes.
_SEED: Final = 1000
# Number of pictures that captions are chosen from at once, and how often others are tried.
_CANDIDATES: Final = 32
_ATTEMPTS: Final = 4
# Of a caption that is cut: its second word depends on a state that a step has made.
LEAST_WORDS: Final = 2


def classifier_golden(network: ClassifierNetwork, recipe: pb.ImageInput, samples: Sequence[Image.Image]) -> Golden:
    """Store MAX_PICTURES pictures with their logits, and the picture files."""
    images = check_pictures(recipe, MAX_PICTURES, _SEED, samples)
    logits = reference.classify(network, images, recipe).logits
    return Golden(images, logits=logits, encoded=encoded_pictures(recipe))


def captioner_golden(
    network: CaptionNetwork,
    recipe: pb.ImageInput,
    spec: pb.CaptionerSpec,
    samples: Sequence[Image.Image],
    rounding: Rounding,
) -> Golden:
    """Store at most MAX_PICTURES pictures with their captions, those with the largest margins, and the picture files.

    If no caption is clear to its end, the longest beginnings are stored. A word is clear if its margin is above a
    provider's rounding error and the drift that `rounding` explains.

    Raises:
        ParityFailed: No caption has two clear words.
    """
    beginnings: list[_Clear] = []
    for seed in range(_SEED, _SEED + _ATTEMPTS):
        images = check_pictures(recipe, _CANDIDATES, seed, samples)
        encoded = reference.encode(network, images, recipe)
        captions = reference.caption(network, encoded, spec)
        drift = permitted_drift(network, encoded, captions, spec, rounding)
        # judge_captions allows FP32_BOUND of this on each word's log-probability.
        least = FP32_BOUND * max(1.0, max(float(np.abs(caption.log_probs).max()) for caption in captions))
        clear = [
            _Clear(image, caption, each, _clear_words(caption, each, least))
            for image, caption, each in zip(images, captions, drift, strict=True)
        ]
        if whole := [each for each in clear if each.words == len(each.caption.tokens)]:
            whole.sort(key=lambda each: each.caption.margin, reverse=True)
            return _pack(whole[:MAX_PICTURES], recipe, spec)
        beginnings += (each for each in clear if each.words >= LEAST_WORDS)
    if not beginnings:
        raise ParityFailed(
            f"no check picture has a caption whose first {LEAST_WORDS} words are clearly ahead of the next best"
        )
    beginnings.sort(key=lambda each: each.words, reverse=True)
    return _pack(beginnings[:MAX_PICTURES], recipe, spec)


@dataclass(frozen=True)
class _Clear:
    """A picture uint8 [H,W,3], its caption with the drift [T] of its words, and how many of the first are clear."""

    image: Pixels
    caption: reference.Caption
    drift: reference.Float
    words: int


def _clear_words(caption: reference.Caption, drift: reference.Float, least: float) -> int:
    """Return the number of words before the first that rounding could change, or that is not comparable."""
    unclear = caption.margins <= 2 * np.maximum(drift, least)
    return min(int(unclear.argmax()) if unclear.any() else len(unclear), comparable_words(drift))


def _pack(clear: Sequence[_Clear], recipe: pb.ImageInput, spec: pb.CaptionerSpec) -> Golden:
    captions = [each.caption.beginning(each.words) for each in clear]
    drift = [each.drift[: each.words] for each in clear]
    return pack_golden(np.stack([each.image for each in clear]), captions, drift, recipe, spec)


def cut_note(golden: Golden, spec: pb.CaptionerSpec) -> tuple[str, ...]:
    """Tell the user if golden captions are beginnings only."""
    assert golden.tokens is not None
    lengths = [
        int(count)
        for row, count in zip(golden.tokens, (golden.tokens >= 0).sum(axis=1), strict=True)
        if count < spec.max_tokens and row[count - 1] != spec.end_id
    ]
    if not lengths:
        return ()
    return (
        f"golden captions: the first {min(lengths)} to {max(lengths)} words of {len(lengths)} of {len(golden.tokens)} "
        "captions; rounding may change the later ones",
    )


def pack_golden(
    images: Pixels,
    captions: Sequence[reference.Caption],
    drift: Sequence[reference.Float],
    recipe: pb.ImageInput,
    spec: pb.CaptionerSpec,
) -> Golden:
    """Store pictures uint8 [G,H,W,3] with their captions, and the picture files.

    `drift` is permitted_drift's. It is stored only if it exceeds the bound of fp32: version 0.1.0 of the server refuses
    examples with drift.
    """
    tokens, log_probs = pack_captions([_as_decoded(caption, spec) for caption in captions], spec)
    drifts = np.zeros_like(log_probs)
    for row, each in enumerate(drift):
        drifts[row, : len(each)] = np.minimum(each, MAX_DRIFT)
    needed = bool((drifts > FP32_BOUND * max(1.0, float(np.abs(log_probs).max()))).any())
    return Golden(
        images,
        tokens=tokens,
        log_probs=log_probs,
        drift=drifts if needed else None,
        encoded=encoded_pictures(recipe),
    )


def _as_decoded(caption: reference.Caption, spec: pb.CaptionerSpec) -> Decoded:
    decoded = Decoded(spec, spec.max_tokens)
    for token, log_prob in zip(caption.tokens, caption.log_probs, strict=True):
        decoded.advance(int(token), float(log_prob))
    return decoded


def encoded_pictures(recipe: pb.ImageInput) -> tuple[EncodedPicture, ...]:
    """Make example picture files with the recipe's pixels."""
    return tuple(EncodedPicture(file, training_pixels(file, recipe)) for file in example_files(recipe))
