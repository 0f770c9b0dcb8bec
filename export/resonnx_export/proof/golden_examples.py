"""Builds golden examples: a few pictures with PyTorch's predictions, and picture files with the recipe's own pixels."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.model_files.golden_examples import MAX_PICTURES, EncodedPicture, Golden, pack_captions
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.examples import example_files
from resonnx_export.pictures.recipe import training_pixels
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof import reference
from resonnx_export.proof.parity import FP32_BOUND

# Other pictures than the parity check's, whose seeds are batch sizes.
_SEED: Final = 1000
# Number of pictures that captions are chosen from.
_CANDIDATES: Final = 32


def classifier_golden(network: ClassifierNetwork, recipe: pb.ImageInput, samples: Sequence[Image.Image]) -> Golden:
    """Store MAX_PICTURES pictures with their logits, and the picture files."""
    images = check_pictures(recipe, MAX_PICTURES, _SEED, samples)
    logits = reference.classify(network, images, recipe).logits
    return Golden(images, logits=logits, encoded=encoded_pictures(recipe))


def captioner_golden(
    network: CaptionNetwork, recipe: pb.ImageInput, spec: pb.CaptionerSpec, samples: Sequence[Image.Image]
) -> Golden:
    """Store at most MAX_PICTURES pictures with their captions, those with the largest margins, and the picture files.

    Raises:
        ParityFailed: No caption has a margin above a provider's rounding error.
    """
    images = check_pictures(recipe, _CANDIDATES, _SEED, samples)
    captions = reference.caption(network, reference.encode(network, images, recipe), spec)
    # judge_captions allows FP32_BOUND of this on each word's log-probability.
    scale = max(1.0, max(float(np.abs(caption.log_probs).max()) for caption in captions))
    clear = [row for row, caption in enumerate(captions) if caption.margin > 2 * FP32_BOUND * scale]
    if not clear:
        raise ParityFailed("no check picture has a caption whose every word is clearly ahead of the next best")
    rows = sorted(clear, key=lambda row: captions[row].margin, reverse=True)[:MAX_PICTURES]
    return pack_golden(images[rows], [captions[row] for row in rows], recipe, spec)


def pack_golden(
    images: Pixels, captions: Sequence[reference.Caption], recipe: pb.ImageInput, spec: pb.CaptionerSpec
) -> Golden:
    """Store pictures uint8 [G,H,W,3] with their captions, and the picture files."""
    tokens, log_probs = pack_captions([_as_decoded(caption, spec) for caption in captions], spec)
    return Golden(images, tokens=tokens, log_probs=log_probs, encoded=encoded_pictures(recipe))


def _as_decoded(caption: reference.Caption, spec: pb.CaptionerSpec) -> Decoded:
    decoded = Decoded(spec, spec.max_tokens)
    for token, log_prob in zip(caption.tokens, caption.log_probs, strict=True):
        decoded.advance(int(token), float(log_prob))
    return decoded


def encoded_pictures(recipe: pb.ImageInput) -> tuple[EncodedPicture, ...]:
    """Make example picture files with the recipe's pixels."""
    return tuple(EncodedPicture(file, training_pixels(file, recipe)) for file in example_files(recipe))
