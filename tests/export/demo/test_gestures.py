"""Clips of moving digits: true of their labels, and visible."""

import math

import numpy as np
import pytest
from resonnx_export.demo import WEIGHTS, samples
from resonnx_export.demo.digits import split
from resonnx_export.demo.gestures import FRAMES, GROWTH, INPUT_SIZE, LABELS, SHIFT, TURN, Path, compose, path_of
from resonnx_export.demo.train_gestures import evaluate_gestures, gestures_model
from safetensors.torch import load_file

# Of the least speed: the most that two frames of a trembling hand may differ by.
TREMBLING = 0.25


def speeds(path: Path) -> dict[str, np.ndarray]:
    """Return the motion between frames as a multiple of the least speed of a gesture, [T-1], by its kind."""
    return {
        "across": np.diff(path.x) / SHIFT[0],
        "down": np.diff(path.y) / SHIFT[0],
        "turn": np.diff(path.degrees) / TURN[0],
        "growth": np.diff(np.log(path.size)) / GROWTH[0],
    }


KINDS = {
    "left": ("across", -1),
    "right": ("across", 1),
    "up": ("down", -1),
    "down": ("down", 1),
    "clockwise": ("turn", 1),
    "counterclockwise": ("turn", -1),
    "grow": ("growth", 1),
    "shrink": ("growth", -1),
}


@pytest.mark.parametrize("label", LABELS)
def test_it_moves_as_its_label_says_at_least_at_the_least_speed_and_in_no_other_way(label: str) -> None:
    rng, counts = np.random.default_rng(7), set()
    for _ in range(200):
        path = path_of(rng, label)
        counts.add(len(path.x))
        kind, sign = KINDS[label]
        found = speeds(path)
        moving = found.pop(kind) * sign
        assert moving.mean() >= 1 - TREMBLING / len(moving)
        assert moving.min() >= 1 - TREMBLING
        assert all(abs(still).max() <= TREMBLING for still in found.values())
        # The digit's square, before it turns, stays in the picture.
        reach = np.maximum(abs(path.x), abs(path.y)) + path.size / 2
        assert reach.max() <= INPUT_SIZE / 2
        assert abs(np.diff(path.degrees)).max() < 30, "or a turn could be taken for one the other way round"
    assert (min(counts), max(counts)) == FRAMES


def middle(darkness: np.ndarray) -> np.ndarray:
    """Return the mean place (down, across) of what is dark, [64,64], in pixels."""
    return np.array([(axis * darkness).sum() for axis in np.mgrid[0:INPUT_SIZE, 0:INPUT_SIZE]])


@pytest.mark.parametrize("label", LABELS)
def test_pixels_move_so(label: str) -> None:
    ink = np.zeros((8, 8), np.uint8)
    ink[3:5, 5:8] = 255
    rng = np.random.default_rng(3)
    for _ in range(10):
        clip = compose(rng, ink, label)
        assert clip.frames.dtype == np.uint8
        assert clip.frames.shape[1:] == (INPUT_SIZE, INPUT_SIZE, 3)
        darkness = 255.0 - clip.frames.mean(axis=3)
        # The paper is the same in all frames.
        gained = darkness[1] - darkness[0]
        down, across = middle(gained)
        match label:
            case "left" | "right":
                assert math.copysign(1, across) == (1 if label == "right" else -1)
            case "up" | "down":
                assert math.copysign(1, down) == (1 if label == "down" else -1)
            case "clockwise" | "counterclockwise":
                assert math.copysign(1, down) == (1 if label == "clockwise" else -1), "the ink is right of the middle"
            case _:
                assert math.copysign(1, gained.sum()) == (1 if label == "grow" else -1)


def test_the_same_seed_gives_the_same_clip() -> None:
    ink = split()[1].ink[0]
    first, again, other = (compose(np.random.default_rng(seed), ink, "up").frames for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_the_shipped_weights_know_held_out_digits_motions_and_are_small() -> None:
    path = WEIGHTS / "gestures.safetensors"
    assert path.stat().st_size <= 2_000_000
    assert evaluate_gestures(gestures_model(load_file(path)), samples.clips(seed=12, count=200)) >= 0.97
