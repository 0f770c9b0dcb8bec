"""Samples of held-out digits, and calibration pictures and clips of training digits: the former stay unseen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import fit

from resonnx_export.demo.digits import LABELS, UInt8, render, split
from resonnx_export.demo.gestures import Clip, compose_any
from resonnx_export.demo.scenes import Scene, compose
from resonnx_export.pictures.calibration import Calibration, split_pictures

# Numbers of calibration pictures and clips.
_DIGITS: Final = 512
_SCENES: Final = 256
_CLIPS: Final = 128
_CALIBRATION_SEED: Final = 0
_HALVES_SEED: Final = 6000
# How long a viewer shows a frame of a clip.
_FRAME_MS: Final = 80


def digits(seed: int | None = None) -> Iterator[tuple[UInt8, str]]:
    """Yield every held-out digit once: picture uint8 [64,64,3] and label.

    Without `seed` in the split's order, black on white; with `seed` shuffled, on varied paper with varied ink.
    """
    _, held_out = split()
    rng = None if seed is None else np.random.default_rng(seed)
    order = np.arange(len(held_out)) if rng is None else rng.permutation(len(held_out))
    for row in order:
        yield render(held_out.ink[row], rng), LABELS[held_out.labels[row]]


def halves_of_digits() -> tuple[list[UInt8], list[UInt8]]:
    """Return a picture of each held-out digit, on varied paper with varied ink, in two halves without order.

    The first is the reference of the model `digits` for drift; the second is to try the server on.
    """
    pictures = [picture for picture, _ in digits(_HALVES_SEED)]
    return pictures[0::2], pictures[1::2]


def scenes(seed: int, count: int) -> Iterator[Scene]:
    """Yield `count` scenes composed of held-out digits."""
    _, held_out = split()
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield compose(rng, held_out.ink, held_out.labels)


def clips(seed: int, count: int) -> Iterator[Clip]:
    """Yield `count` clips of moving held-out digits."""
    _, held_out = split()
    yield from compose_any(np.random.default_rng(seed), held_out.ink, count)


def write_samples(directory: Path, count: int, seed: int) -> Path:
    """Write 0001.png and so on, digits and scenes in turn, and truth.json; return its path.

    truth.json maps each file to its model and to its label (digits) or caption (scenes). The folder `clips` gets one
    animated WebP file to two pictures, 01.webp and so on, and a truth.json of its own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    digit_source = _endless_digits(seed)
    scene_source = scenes(seed, count // 2)
    truth: dict[str, dict[str, str]] = {}
    for index in range(count):
        name = f"{index + 1:04}.png"
        if index % 2 == 0:
            picture, label = next(digit_source)
            truth[name] = {"model": "digits", "label": label}
        else:
            scene = next(scene_source)
            picture = scene.image
            truth[name] = {"model": "scenes", "caption": scene.caption}
        Image.fromarray(picture).save(directory / name)
    clip_truth = {}
    for number, clip in enumerate(clips(seed, max(count // 2, 1)), 1):
        name = f"{number:02}.webp"
        _save(clip, directory / "clips" / name)
        clip_truth[name] = {"model": "gestures", "label": clip.label}
    _write_truth(directory / "clips", clip_truth)
    return _write_truth(directory, truth)


def write_calibration_clips(directory: Path) -> None:
    """Write clips of training digits, animated WebP files in folders named as their labels."""
    train, _ = split()
    rng = np.random.default_rng(_CALIBRATION_SEED)
    for number, clip in enumerate(compose_any(rng, train.ink, _CLIPS)):
        _save(clip, directory / clip.label / f"{number:03}.webp")


def _save(clip: Clip, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, clip.frames)
    first.save(path, lossless=True, save_all=True, append_images=others, duration=_FRAME_MS)


def _write_truth(directory: Path, truth: dict[str, dict[str, str]]) -> Path:
    path = directory / "truth.json"
    path.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return path


def _endless_digits(seed: int) -> Iterator[tuple[UInt8, str]]:
    while True:
        yield from digits(seed)
        seed += 1


def calibration_digits(recipe: pb.ImageInput) -> Calibration:
    """Render training digits on varied paper with varied ink, with their classes."""
    train, _ = split()
    rng = np.random.default_rng(_CALIBRATION_SEED)
    rows = rng.permutation(len(train))[:_DIGITS]
    pictures = [fit(Image.fromarray(render(train.ink[row], rng)), recipe) for row in rows]
    return split_pictures(np.stack(pictures), train.labels[rows])


def calibration_scenes(recipe: pb.ImageInput) -> Calibration:
    """Compose scenes of training digits."""
    train, _ = split()
    rng = np.random.default_rng(_CALIBRATION_SEED)
    pictures = [fit(Image.fromarray(compose(rng, train.ink, train.labels).image), recipe) for _ in range(_SCENES)]
    return split_pictures(np.stack(pictures))
