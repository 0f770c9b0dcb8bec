"""Builds golden examples: a few pictures with PyTorch's answers, and picture files with the recipe's own pixels.

The recipe is written here as torchvision and the captioning repositories have it, apart from the server's
(runtime/pictures/images.py), so that the stored pixels can show a server's mistake.
"""

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageOps
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.model_files.golden_examples import MAX_PICTURES, EncodedPicture, Golden, pack_captions
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork
from resonnx_export.pictures.recipe import check_pictures, smooth
from resonnx_export.precision.bounds import FP32_BOUND
from resonnx_export.proof import reference

# Apart from the seeds of the parity check, which are its batch sizes.
_SEED: Final = 1000
# Captions are chosen among so many pictures.
_CANDIDATES: Final = 32
_FILTERS: Final = {
    pb.ImageInput.FILTER_BILINEAR: Image.Resampling.BILINEAR,
    pb.ImageInput.FILTER_BICUBIC: Image.Resampling.BICUBIC,
    pb.ImageInput.FILTER_LANCZOS: Image.Resampling.LANCZOS,
    pb.ImageInput.FILTER_NEAREST: Image.Resampling.NEAREST,
    pb.ImageInput.FILTER_BOX: Image.Resampling.BOX,
}


def classifier_golden(network: ClassifierNetwork, recipe: pb.ImageInput, samples: Sequence[Image.Image]) -> Golden:
    """Store MAX_PICTURES pictures with their logits, and the picture files."""
    images = check_pictures(recipe, MAX_PICTURES, _SEED, samples)
    logits = reference.classify(network, images, recipe).logits
    return Golden(images, logits=logits, encoded=encoded_pictures(recipe))


def captioner_golden(
    network: CaptionNetwork, recipe: pb.ImageInput, spec: pb.CaptionerSpec, samples: Sequence[Image.Image]
) -> Golden:
    """Store at most MAX_PICTURES pictures with their captions, and the picture files.

    A provider must give the same words, so pictures are chosen by how far the best word is ahead at the closest step.

    Raises:
        ParityFailed: No caption is clear enough to tell a right provider from a wrong one.
    """
    images = check_pictures(recipe, _CANDIDATES, _SEED, samples)
    captions = reference.caption(network, reference.encode(network, images, recipe), spec)
    # What judge_captions lets a float32 provider's log-probabilities deviate by, on both words.
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
    """Make three picture files of odd sizes, larger and smaller than the input, with the recipe's pixels."""
    rng = np.random.default_rng(_SEED)
    width, height = recipe.width, recipe.height
    wide = Image.fromarray(smooth(rng, height + 37, 2 * width + 53))
    tall = Image.fromarray(smooth(rng, 2 * height + 91, width + 29))
    small = Image.fromarray(smooth(rng, height // 2 + 3, width // 2 + 6))
    small.putalpha(Image.fromarray(rng.integers(0, 256, (small.height, small.width), np.uint8)))
    # As a phone writes it that is held upright: what a server does about it shows.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files = (
        _save(wide, "JPEG", quality=90),
        _save(tall, "JPEG", quality=75, progressive=True, exif=exif),
        _save(small, "PNG"),
    )
    return tuple(EncodedPicture(file, source_recipe(file, recipe)) for file in files)


def _save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def source_recipe(file: bytes, recipe: pb.ImageInput) -> Pixels:
    """Decode and resize a picture file as the training code does; returns uint8 [H,W,3].

    Stretch: `imresize(image, (H, W))`. Short side: torchvision's `Resize(short_side)` and `CenterCrop((H, W))`
    (torchvision/transforms/functional.py: `_compute_resized_output_size` and `center_crop`).
    """
    opened = Image.open(io.BytesIO(file))
    applied = recipe.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    image = (ImageOps.exif_transpose(opened) if applied else opened).convert("RGB")
    resample = _FILTERS[recipe.filter]
    if recipe.resize == pb.ImageInput.RESIZE_STRETCH:
        return np.asarray(image.resize((recipe.width, recipe.height), resample))
    short, long = sorted(image.size)
    new_short, new_long = recipe.resize_short_side, int(recipe.resize_short_side * long / short)
    image = image.resize((new_short, new_long) if image.width <= image.height else (new_long, new_short), resample)
    crop_top = round((image.height - recipe.height) / 2)
    crop_left = round((image.width - recipe.width) / 2)
    return np.asarray(image.crop((crop_left, crop_top, crop_left + recipe.width, crop_top + recipe.height)))
