"""Folders of clips for int8's calibration: frames in order, animated files, classes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_export.errors import BadInput
from resonnx_export.pictures.clip_folders import read_clips
from resonnx_export.pictures.recipe import image_input

RECIPE = image_input(8, resize_short_side=None)
LABELS = ("left", "right")


def frame(grey: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), grey, np.uint8))


def write_clips(folder: Path, count: int = 8, frames: int = 12) -> Path:
    """Write clips of grey frames 10 * number + clip: folders, and every third an animated GIF."""
    for clip in range(count):
        place = folder / LABELS[clip % 2]
        pictures = [frame(10 * number + clip) for number in range(frames)]
        if clip % 3 == 0:
            place.mkdir(parents=True, exist_ok=True)
            pictures[0].save(place / f"{clip}.gif", save_all=True, append_images=pictures[1:])
            continue
        (place / str(clip)).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            picture.save(place / str(clip) / f"frame{number}.png")
    return folder


def test_clips_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = read_clips(write_clips(tmp_path), RECIPE, LABELS)
    assert found.held_back.lengths.tolist() == [12] * 4
    assert len(found.fit) == 48
    assert found.truths is not None
    for clip, truth in zip(found.held_back, found.truths, strict=True):
        greys = clip[:, 0, 0, 0].tolist()
        assert greys == [10 * number + greys[0] for number in range(12)]
        assert greys[0] % 2 == truth
    held = {clip[0, 0, 0, 0] for clip in found.held_back}
    assert not held & set(found.fit[:, 0, 0, 0].tolist())


def test_long_clips_are_read_at_equal_distances(tmp_path: Path) -> None:
    for clip in range(8):
        pictures = [frame(3 * number) for number in range(63)]
        pictures[0].save(tmp_path / f"{clip}.gif", save_all=True, append_images=pictures[1:])
    found = read_clips(tmp_path, RECIPE, LABELS)
    assert found.truths is None
    assert found.held_back.lengths.tolist() == [32] * 4
    greys = next(iter(found.held_back))[:, 0, 0, 0].tolist()
    assert greys == [6 * number for number in range(32)]


def test_folders_that_are_no_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has 7 clips .* takes 8 or more"):
        read_clips(write_clips(tmp_path / "few", 7), RECIPE, LABELS)
    with pytest.raises(BadInput, match="is not a folder"):
        read_clips(tmp_path / "none", RECIPE, LABELS)
    some = write_clips(tmp_path / "some")
    (some / "left").rename(some / "up")
    with pytest.raises(BadInput, match="up has clips and is not named as a label"):
        read_clips(some, RECIPE, LABELS)
    (some / "right" / "1" / "frame3.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"frame3\.png"):
        read_clips(some, RECIPE, ())
