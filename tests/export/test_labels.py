"""Vocabularies and recipes: what may be given, and what is refused."""

import json
from pathlib import Path

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.labels import read_vocabulary
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures


@pytest.mark.parametrize("text", ["<pad>\na\n", '["<pad>", "a"]', '{"a": 1, "<pad>": 0}'])
def test_vocabularies_in_every_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "words"
    path.write_text(text)
    assert read_vocabulary(path) == ("<pad>", "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "b"}', '"word": id'),
        (b'["a", 3]', "list of names"),
        (b'["a", ', "begins like JSON"),
        (b"a\n\nb\n", "name 1 is empty"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_words_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "words"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_vocabulary(path)


@pytest.mark.parametrize("words", [{"a": 0, "b": 0}, {"a": 1, "b": 2}, {"a": 0, "b": "1"}, {"a": 0, "b": 0.5}])
def test_vocabularies_with_gaps(tmp_path: Path, words: dict[str, object]) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(words))
    with pytest.raises(BadInput):
        read_vocabulary(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_vocabulary(tmp_path / "none")


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 2, (0.5,) * 3), ((0.5,) * 3, (0.5, 0, 0.5)), ((float("nan"),) * 3, (1,) * 3)]
)
def test_normalisation_that_is_none(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="three numbers"):
        image_input(32, resize_short_side=None, mean=mean, std=std)


def test_check_pictures_repeat_and_differ() -> None:
    recipe = image_input(20, resize_short_side=None)
    pictures = check_pictures(recipe, 16, seed=1)
    assert pictures.shape == (16, 20, 20, 3)
    assert (pictures == check_pictures(recipe, 16, seed=1)).all()
    assert (pictures != check_pictures(recipe, 16, seed=2)).any()
    flat = {(picture.min(), picture.max()) for picture in pictures}
    assert {(0, 0), (255, 255), (0, 255)} <= flat
