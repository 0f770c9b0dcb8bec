"""Demonstration: an honest split, captions true of their pictures, and the shipped weights."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_export.demo import WEIGHTS, samples
from resonnx_export.demo.augment import prepare_rewriting, rewrite
from resonnx_export.demo.digits import LABELS, Digits, render, split
from resonnx_export.demo.scenes import (
    COLOURS,
    END,
    INPUT_SIZE,
    MAX_WORDS,
    SIZES,
    START,
    UNKNOWN,
    VOCABULARY,
    Placed,
    Scene,
    compose,
    decode_caption,
    encode_caption,
)
from resonnx_export.demo.train import DIGITS_CONFIG, SCENES_CONFIG, evaluate_digits, evaluate_scenes
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.detect import load_strict
from resonnx_export.networks.resnet import ResNet
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DIGIT = rf"a (?:{'|'.join(SIZES)}) (?:{'|'.join(COLOURS)}) (?:{'|'.join(LABELS)})"
ROW = rf"{DIGIT}(?: left of {DIGIT})?"
SCENE = re.compile(rf"{ROW}(?: above {ROW})?")


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return list(samples.scenes(seed=5, count=300))


def pictures_of(digits: Digits) -> set[bytes]:
    return {picture.tobytes() for picture in digits.ink}


def test_held_out_is_the_usual_stratified_fifth() -> None:
    data = load_digits()
    training, pictures, training_labels, labels = train_test_split(
        data.images, data.target, test_size=0.2, random_state=0, stratify=data.target
    )
    train, held_out = split()
    assert (len(train), len(held_out)) == (1437, 360)
    assert np.array_equal(held_out.labels, labels)
    assert np.array_equal(np.rint(held_out.ink / 255 * 16), pictures)
    assert np.array_equal(np.rint(train.ink / 255 * 16), training)
    assert np.array_equal(train.labels, training_labels)


def test_no_picture_is_on_both_sides() -> None:
    train, held_out = split()
    assert not pictures_of(train) & pictures_of(held_out)


def test_render_is_dark_ink_on_light_paper() -> None:
    _, held_out = split()
    plain = render(held_out.ink[0])
    assert plain.shape == (64, 64, 3)
    assert plain.dtype == np.uint8
    assert plain[0, 0].tolist() == [255, 255, 255]
    varied = render(held_out.ink[0], np.random.default_rng(1))
    assert varied[0, 0].min() >= 200
    assert np.corrcoef(plain.ravel(), varied.ravel())[0, 1] > 0.9


def test_rewriting_keeps_labels_and_is_deterministic() -> None:
    train, _ = split()
    digits = prepare_rewriting(train[:20])
    first, again = (rewrite(digits, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.ink, again.ink)
    assert np.array_equal(first.labels, train.labels[:20])
    assert not np.array_equal(first.ink, digits.ink)


def test_same_seed_same_scene() -> None:
    first, again, other = (next(samples.scenes(seed, 1)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert first.caption == again.caption
    assert not np.array_equal(first.image, other.image)


def test_captions_follow_the_grammar(many: list[Scene]) -> None:
    for scene in many:
        assert SCENE.fullmatch(scene.caption)
        assert len(scene.caption.split()) <= MAX_WORDS
        assert scene.image.shape == (INPUT_SIZE, INPUT_SIZE, 3)
        assert scene.image.dtype == np.uint8
    assert {sum(map(len, scene.rows)) for scene in many} == {1, 2, 3}


def test_every_word_is_used_and_known(many: list[Scene]) -> None:
    words = {word for scene in many for word in scene.caption.split()}
    assert words == set(VOCABULARY[4:])
    assert VOCABULARY[:4] == ("<pad>", "<start>", "<end>", "<unk>")


def test_relations_and_sizes_hold_with_margin(many: list[Scene]) -> None:
    for scene in many:
        for row in scene.rows:
            for left, right in pairwise(row):
                assert left.left + left.size < right.left
                overlap = min(left.top + left.size, right.top + right.size) - max(left.top, right.top)
                assert overlap >= min(left.size, right.size) * 2 / 3
            for digit in row:
                low, high = SIZES[digit.size_name]
                assert low <= digit.size <= high
        for upper, lower in pairwise(scene.rows):
            bottom = max(digit.top + digit.size for digit in upper)
            assert bottom < min(digit.top for digit in lower)
    assert SIZES["large"][0] >= 1.4 * SIZES["small"][1]


def darkest_colour(scene: Scene, placed: Placed) -> str:
    """Name the colour of the ink: that of the box's pixels furthest from its median."""
    box = scene.image[placed.top : placed.top + placed.size, placed.left : placed.left + placed.size].reshape(-1, 3)
    distance = np.abs(box.astype(int) - np.median(box[box.sum(1).argsort()[-50:]], 0)).sum(1)
    ink = box[distance.argsort()[-20:]].mean(0)
    return min(COLOURS, key=lambda name: float(np.abs(ink - COLOURS[name]).sum()))


def test_colours_are_on_the_picture(many: list[Scene]) -> None:
    placed = [(scene, digit) for scene in many for row in scene.rows for digit in row]
    right = sum(darkest_colour(scene, digit) == digit.colour for scene, digit in placed)
    assert right >= 0.99 * len(placed)


def test_caption_tokens_round_trip(many: list[Scene]) -> None:
    for scene in many[:20]:
        tokens = encode_caption(scene.caption)
        assert (tokens[0], tokens[-1]) == (START, END)
        assert UNKNOWN not in tokens
        assert decode_caption([*tokens, 0, 0]) == scene.caption
    assert encode_caption("a teal seven")[2] == UNKNOWN


def test_scenes_show_only_the_digits_given() -> None:
    train, _ = split()
    threes = train[np.flatnonzero(train.labels == 3)]
    scene = compose(np.random.default_rng(0), threes.ink, threes.labels)
    assert {digit.label for row in scene.rows for digit in row} == {"three"}


def test_digit_iterator_covers_the_held_out_part_once() -> None:
    _, held_out = split()
    plain = list(samples.digits())
    assert [label for _, label in plain] == [LABELS[label] for label in held_out.labels]
    shuffled = Counter(label for _, label in samples.digits(seed=1))
    assert shuffled == Counter(label for _, label in plain)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_samples_are_half_and_half(tmp_path: Path, count: int) -> None:
    path = samples.write_samples(tmp_path / "pictures", count, seed=3)
    truth = json.loads(path.read_text())
    assert list(truth) == [f"{number:04}.png" for number in range(1, count + 1)]
    models = Counter(entry["model"] for entry in truth.values())
    assert abs(models["digits"] - models["scenes"]) <= 1
    for name, entry in truth.items():
        with Image.open(path.parent / name) as picture:
            side = 64 if entry["model"] == "digits" else INPUT_SIZE
            assert (picture.mode, picture.size) == ("RGB", (side, side))
        assert entry.get("label", LABELS[0]) in LABELS
        assert ("caption" in entry) == (entry["model"] == "scenes")


def test_samples_are_reproducible(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        samples.write_samples(tmp_path / folder, 4, seed=9)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 4 + 2 + 2, "pictures, clips, and the truth of both"
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) <= 5_000_000


def test_shipped_digit_model_reads_held_out_digits() -> None:
    _, held_out = split()
    model = ResNet(DIGITS_CONFIG)
    load_strict(model, load_file(WEIGHTS / "digits.safetensors"))
    assert evaluate_digits(model, held_out) >= 0.99
    assert evaluate_digits(model, held_out, seed=2) >= 0.985


def test_shipped_captioner_describes_held_out_scenes(many: list[Scene]) -> None:
    model = Captioner(SCENES_CONFIG)
    load_strict(model, load_file(WEIGHTS / "scenes.safetensors"))
    assert evaluate_scenes(model, many) >= 0.95
