"""Builds golden examples: a few pictures with PyTorch's predictions, and picture files with the recipe's own pixels."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.model_files.golden_examples import (
    MAX_DRIFT,
    MAX_PICTURES,
    EncodedPicture,
    Golden,
    pack_captions,
)
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.examples import example_files
from resonnx_export.pictures.recipe import training_pixels
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof import reference
from resonnx_export.proof.drift import Rounding, permitted_drift
from resonnx_export.proof.parity import FP32_BOUND

# Other pictures than the parity check's, whose seeds are batch sizes.
_SEED: Final = 1000
# Number of pictures that captions are chosen from at once, and how often others are tried.
_CANDIDATES: Final = 32
_ATTEMPTS: Final = 4


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

    Raises:
        ParityFailed: No caption has margins above a provider's rounding error and the drift that `rounding` explains.
    """
    clear_words = 0
    for seed in range(_SEED, _SEED + _ATTEMPTS):
        images = check_pictures(recipe, _CANDIDATES, seed, samples)
        encoded = reference.encode(network, images, recipe)
        captions = reference.caption(network, encoded, spec)
        drift = permitted_drift(network, encoded, captions, spec, rounding)
        # judge_captions allows FP32_BOUND of this on each word's log-probability.
        least = FP32_BOUND * max(1.0, max(float(np.abs(caption.log_probs).max()) for caption in captions))
        lengths = [_clear_words(caption, each, least) for caption, each in zip(captions, drift, strict=True)]
        clear_words = max(clear_words, *lengths)
        clear = [row for row, caption in enumerate(captions) if lengths[row] == len(caption.tokens)]
        if clear:
            rows = sorted(clear, key=lambda row: captions[row].margin, reverse=True)[:MAX_PICTURES]
            chosen, drifts = [captions[row] for row in rows], [drift[row] for row in rows]
            return pack_golden(images[rows], chosen, drifts, recipe, spec)
    way_out = f"; with --max-tokens {clear_words} there is one" if clear_words else ""
    raise ParityFailed(f"no check picture has a caption whose every word is clearly ahead of the next best{way_out}")


def _clear_words(caption: reference.Caption, drift: reference.Float, least: float) -> int:
    """Return the number of words before the first that rounding could change, or whose drift a server refuses."""
    unclear = (caption.margins <= 2 * np.maximum(drift, least)) | (drift > MAX_DRIFT)
    return int(unclear.argmax()) if unclear.any() else len(unclear)


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
