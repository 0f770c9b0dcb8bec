"""Reads a folder of the user's clips: folders of frames, and animated GIF and WebP files, for int8's calibration."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels, fit
from resonnx_server.runtime.video.clips import Clips, joined

from resonnx_export.errors import BadInput
from resonnx_export.pictures.calibration import SUFFIXES, decode_pictures

_ANIMATED: Final = (".gif", ".webp")
_LEAST: Final = 8
# Frames of a clip that are read, at equal distances; and clips. All are held in memory.
_MOST_FRAMES: Final = 32
_MOST_CLIPS: Final = 128
# Frames from which ranges are measured.
_MOST_TO_FIT: Final = 256
_SEED: Final = 0


@dataclass(frozen=True)
class ClipCalibration:
    """Typical clips.

    Attributes:
        fit: Frames uint8 [F,H,W,3], from which the ranges of activations are measured.
        held_back: Clips, none of whose frames are in `fit`, to judge on.
        truths: int64 [N], the classes of `held_back`; None if unknown.
    """

    fit: Pixels
    held_back: Clips
    truths: npt.NDArray[np.int64] | None = None


def read_clips(folder: Path, recipe: pb.ImageInput, labels: Sequence[str]) -> ClipCalibration:
    """Read the clips of a folder and its subfolders, and hold every second one back.

    A clip is a folder of picture files, its frames in the order of the numbers in their names, or an animated GIF or
    WebP file. Clips in folders named as labels are of that class. Of long clips, 32 frames at equal distances are read.

    Raises:
        BadInput: The folder cannot be read or has fewer than 8 clips, a frame cannot be decoded, or only some of the
            folders are named as labels.
    """
    found = list(_found(folder))
    if len(found) < _LEAST:
        raise BadInput(
            f"{folder} has {len(found)} clips (folders of frames, animated GIF and WebP files); calibration takes "
            f"{_LEAST} or more"
        )
    chosen = [found[i] for i in np.random.default_rng(_SEED).permutation(len(found))[:_MOST_CLIPS]]
    clips = [_read(each, recipe) for each in chosen]
    to_fit = np.concatenate(clips[0::2])
    step = -(-len(to_fit) // _MOST_TO_FIT)
    truths = _truths(folder, [each[0].parent if len(each) == 1 else each[0].parent.parent for each in chosen], labels)
    return ClipCalibration(to_fit[::step], joined(clips[1::2]), None if truths is None else truths[1::2])


def _found(folder: Path) -> Iterator[list[Path]]:
    """Yield each clip as its files."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    frames: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*"), key=lambda path: [_natural(part) for part in path.parts]):
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES or not path.is_file():
            continue
        if suffix in _ANIMATED and _is_animated(path):
            yield [path]
        elif path.parent != folder:
            frames[path.parent].append(path)
    # One picture alone is no clip: it would be taken for an animated file.
    yield from (files for files in frames.values() if len(files) > 1)


def _is_animated(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadInput(f"{path} is no picture file that can be read") from None


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)]


def _read(files: Sequence[Path], recipe: pb.ImageInput) -> Pixels:
    """Return some frames of a clip, uint8 [T,H,W,3]."""
    if len(files) > 1:
        chosen = [files[i] for i in _spread(len(files))]
        return np.stack([fit(image, recipe) for image in decode_pictures(chosen, recipe)])
    # The first frame is decoded with the server's limits before any other.
    next(iter(decode_pictures(files, recipe)))
    try:
        with Image.open(files[0]) as image:
            wanted = set(_spread(getattr(image, "n_frames", 1)))
            frames = enumerate(ImageSequence.Iterator(image))
            return np.stack([fit(frame.convert("RGB"), recipe) for number, frame in frames if number in wanted])
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"{files[0]} cannot be decoded: {error}") from None


def _spread(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, _MOST_FRAMES)).round().astype(int).tolist()))


def _truths(folder: Path, places: Sequence[Path], labels: Sequence[str]) -> npt.NDArray[np.int64] | None:
    names = [place.relative_to(folder).as_posix() for place in places]
    classes = {label: i for i, label in enumerate(labels)}
    unknown = sorted({name for name in names if name not in classes})
    if len(unknown) == len(set(names)):
        return None
    if unknown:
        raise BadInput(f"{folder / unknown[0]} has clips and is not named as a label, unlike other folders")
    return np.array([classes[name] for name in names], np.int64)
