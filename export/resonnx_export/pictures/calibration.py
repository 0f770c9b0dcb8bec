"""Reads a folder of the user's pictures with the server's decoder and resize.

They are samples, the reference for drift, or for int8's calibration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import BadImage
from resonnx_server.runtime.model_files.drift_reference import MOST_PICTURES
from resonnx_server.runtime.pictures.images import Pixels, decode, fit
from resonnx_server.runtime.pictures.options import PictureOptions

from resonnx_export.errors import BadInput

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_LEAST: Final = 8
# All pixels are held in memory, and more pictures do not improve the ranges.
_MOST_TO_FIT: Final = 256
_MOST_HELD_BACK: Final = 1024
# No check uses more. Samples are held at their own size, as the model's input is not known yet.
_MOST_SAMPLES: Final = 32
_MOST_SAMPLE_SIDE: Final = 1024
_SEED: Final = 0
# Reference pictures that are held at a time.
_BATCH: Final = 16


@dataclass(frozen=True)
class Calibration:
    """Typical pictures.

    Attributes:
        fit: uint8 [F,H,W,3], from which the ranges of activations are measured.
        held_back: uint8 [B,H,W,3], none of them in `fit`, to judge on.
        truths: int64 [B], the classes of `held_back`; None if unknown.
    """

    fit: Pixels
    held_back: Pixels
    truths: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ReferencePictures:
    """Pictures with which those of requests are compared.

    Attributes:
        count: Their number.
        batches: Yields them by a recipe, uint8 [N,H,W,3] at a time.
    """

    count: int
    batches: Callable[[pb.ImageInput], Iterator[Pixels]]


def split_pictures(pictures: Pixels, truths: npt.NDArray[np.int64] | None = None) -> Calibration:
    """Split pictures uint8 [N,H,W,3] with classes int64 [N]: every second one is held back."""
    return Calibration(pictures[0::2], pictures[1::2], None if truths is None else truths[1::2])


def read_calibration(folder: Path, recipe: pb.ImageInput, labels: Sequence[str] = ()) -> Calibration:
    """Read the JPEG, PNG, WebP, BMP and GIF files of a folder and its subfolders.

    Pictures in subfolders named as labels, a classifier's in the order of its classes, are of that class.

    Raises:
        BadInput: The folder cannot be read or has too few pictures, a picture cannot be decoded, or only some of the
            folders are named as labels.
    """
    files = _shuffled_files(folder)
    if len(files) < _LEAST:
        raise BadInput(
            f"{folder} has {len(files)} pictures ({', '.join(SUFFIXES)}); calibration takes {_LEAST} or more"
        )
    chosen = files[: _MOST_TO_FIT + _MOST_HELD_BACK]
    truths = _truths(folder, chosen, labels)
    pixels = np.stack([fit(image, recipe) for image in decode_pictures(chosen, recipe)])
    half = min(len(chosen) // 2, _MOST_TO_FIT)
    return Calibration(pixels[:half], pixels[half:], None if truths is None else truths[half:])


def read_samples(folder: Path, decoding: pb.ImageInput) -> list[Image.Image]:
    """Read some of the picture files of a folder and its subfolders, and reduce large ones.

    `decoding` is a recipe as far as decoding depends on it. Raises BadInput as read_calibration; one picture is enough.
    """
    files = _shuffled_files(folder)
    if not files:
        raise BadInput(f"{folder} has no pictures ({', '.join(SUFFIXES)})")
    samples = []
    for image in decode_pictures(files[:_MOST_SAMPLES], decoding):
        image.thumbnail((_MOST_SAMPLE_SIDE, _MOST_SAMPLE_SIDE))
        samples.append(image)
    return samples


def read_reference(folder: Path) -> ReferencePictures:
    """Find the pictures that read_samples reads, and more of them. `batches` raises BadInput as read_calibration."""
    files = _shuffled_files(folder)[:MOST_PICTURES]
    return reference_of(len(files), lambda recipe: decode_pictures(files, recipe))


def reference_of(count: int, pictures: Callable[[pb.ImageInput], Iterator[Image.Image]]) -> ReferencePictures:
    """Return `count` pictures, which `pictures` yields, as reference pictures."""

    def batches(recipe: pb.ImageInput) -> Iterator[Pixels]:
        fitted = (fit(image, recipe) for image in pictures(recipe))
        while batch := list(islice(fitted, _BATCH)):
            yield np.stack(batch)

    return ReferencePictures(count, batches)


def _shuffled_files(folder: Path) -> list[Path]:
    """Return the picture files in an order that mixes subfolders, the same each time."""
    try:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror}") from None
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    return [files[i] for i in np.random.default_rng(_SEED).permutation(len(files))]


def _truths(folder: Path, files: Sequence[Path], labels: Sequence[str]) -> npt.NDArray[np.int64] | None:
    names = [path.relative_to(folder).parent.as_posix() for path in files]
    classes = {label: i for i, label in enumerate(labels)}
    unknown = sorted({name for name in names if name not in classes})
    if len(unknown) == len(set(names)):
        return None
    if unknown:
        raise BadInput(f"{folder / unknown[0]} has pictures and is not named as a label, unlike other folders")
    return np.array([classes[name] for name in names], np.int64)


def decode_pictures(files: Sequence[Path], recipe: pb.ImageInput) -> Iterator[Image.Image]:
    """Yield picture files, decoded with the server's limits. Raises BadInput."""
    for path in files:
        try:
            yield decode(path.read_bytes(), str(path), PictureOptions(recipe))
        except BadImage as error:
            raise BadInput(str(error)) from None
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from None
