"""Vocabulary files of every source are read, and never run."""

import argparse
import io
import json
import pickle
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.vocabulary import Vocabulary, find_vocabulary, load_vocabulary

from .caption_exports import UDACITY, YUNJEY, importable, write_vocabulary

_ITOS = dict(enumerate(YUNJEY))
_STOI = {word: i for i, word in enumerate(YUNJEY)}
_BY_TEXT = {str(i): word for i, word in _ITOS.items()}
# Contents of pickles and files of torch.save, each with YUNJEY's words.
_OBJECTS: dict[str, object] = {
    "itos and stoi": {"itos": _ITOS, "stoi": _STOI, "freq_threshold": 5},
    "itos alone": {"itos": list(YUNJEY)},
    "torchtext's attributes": {"freqs": Counter("ab"), "itos": list(YUNJEY), "stoi": defaultdict(None, _STOI)},
    "stoi alone": {"stoi": _STOI},
    "word -> id": _STOI,
    "id -> word": _ITOS,
    "text id -> word": _BY_TEXT,
    "words": list(YUNJEY),
    "a holder": {"vocab": {"word2idx": _STOI}, "epoch": 3},
}


@pytest.mark.parametrize("content", _OBJECTS.values(), ids=_OBJECTS)
def test_objects_of_every_form(tmp_path: Path, content: object) -> None:
    pickled, saved, legacy, text = (tmp_path / name for name in ("v.pkl", "v.pth", "old.pth", "v.json"))
    pickled.write_bytes(pickle.dumps(content))
    torch.save(content, saved)
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    text.write_text(json.dumps(content))
    for path in (pickled, saved, legacy, text):
        assert load_vocabulary(path).words == YUNJEY


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_objects_of_classes_that_are_not_installed(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "vocab.pkl"
    with importable("data_loader", Vocabulary=type("Vocabulary", (), {})) as classes:
        vocabulary = classes.Vocabulary()
        vocabulary.itos, vocabulary.stoi, vocabulary.freq_threshold = _ITOS, _STOI, 5
        path.write_bytes(pickle.dumps(vocabulary, protocol))
        torch.save(vocabulary, tmp_path / "vocab.pth")
    assert load_vocabulary(path).words == load_vocabulary(tmp_path / "vocab.pth").words == YUNJEY


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(YUNJEY),
        "\ufeff" + "\r\n".join(YUNJEY) + "\r\n",
        "\n".join(f"{word}\t{i}" for word, i in _STOI.items()),
        "\n".join(f"{i} {word}" for i, word in reversed(_ITOS.items())),
        "\n".join(f"{word},{i}" for word, i in _STOI.items()),
    ],
)
def test_text_of_every_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(text.encode())
    assert load_vocabulary(path).words == YUNJEY


def test_a_word_in_brackets_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("[CLS]\n[SEP]\ncat\n")
    assert load_vocabulary(path).words == ("[CLS]", "[SEP]", "cat")


def test_sources_that_number_from_one(tmp_path: Path) -> None:
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"vocab": {"1": "a", "2": "UNK"}, "opt": argparse.Namespace(seq_length=9)}))
    assert load_vocabulary(path) == Vocabulary(("<end>", "a", "UNK"), {"seq_length": 9})
    path.write_bytes(
        pickle.dumps({"word_index": {"startseq": 1, "endseq": 2}, "index_word": {1: "startseq", 2: "endseq"}})
    )
    assert load_vocabulary(path).words == ("<pad>", "startseq", "endseq")


def test_vocabularies_are_read_and_not_run(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "vocab.pkl", "build_vocab", YUNJEY)
    assert load_vocabulary(path).words == YUNJEY
    path.write_bytes(pickle.dumps({"word2idx": {word: i for i, word in enumerate(UDACITY)}}))
    assert load_vocabulary(path).words == UDACITY
    for content in (Touch(tmp_path / "touched"), {"itos": [Touch(tmp_path / "touched")]}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(BadInput):
            load_vocabulary(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"word2idx": {"a": 0, "b": 2}}, "0 to 1, each once; 1 is missing"),
        ({"word2idx": {"a": "x"}}, "must be numbers"),
        ({"word2idx": {"a": [0]}}, "must be numbers"),
        ({"word2idx": {"a": 0, "b": 0}}, "two words of the vocabulary have the same id"),
        ({"itos": {0: "a", "0": "b"}}, "two words of the vocabulary have the id 0"),
        ({"itos": [3, "a"]}, "the word of the vocabulary's id 0 is no text"),
        ({"itos": []}, "each once"),
        ({"a": 0, "b": 0.5}, "holds no vocabulary"),
        (["a", 3], "holds no vocabulary but a list"),
        ({"itos": ["a", "b"], "stoi": {"a": 1, "b": 0}}, "two directions disagree: 'a' has the id 1"),
        ({"vocab": {"x": "a"}}, "must be numbers"),
        ({"vocab": {"9" * 5000: "a"}}, "must be numbers"),
        (SimpleNamespace(words=3), "holds no vocabulary but an object types.SimpleNamespace with words"),
        ({"state_dict": {"a": 0.5}}, "holds no vocabulary but a dict with the keys state_dict"),
        (7, "holds no vocabulary but a int"),
    ],
)
def test_what_is_no_vocabulary(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(BadInput, match=said):
        load_vocabulary(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'["a", ', "begins like JSON"),
        (b'[\n"a",\n"b"', "begins like JSON"),
        (b'{"a": "b"}', "holds no vocabulary"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"the 40\na 31\n", "the numbers are not the ids 0 to 1"),
        (b"\xff\xfe", "neither UTF-8 text nor a pickle"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\x80\x04garbage", "pickle"),
        (b"PK\x03\x04", "zip"),
        (b"", "line 1 is empty"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "words"
    path.write_bytes(text)
    with pytest.raises(BadInput, match=said):
        load_vocabulary(path)


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "damaged"
    buffer = io.BytesIO()
    torch.save({"stoi": _STOI, "itos": _ITOS}, buffer)
    sources = [pickle.dumps(_STOI, 0), pickle.dumps({"itos": _ITOS}), json.dumps(_STOI).encode(), buffer.getvalue()]
    said = list[str]()
    for number in range(300):
        content = bytearray(sources[number % len(sources)])
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            words = load_vocabulary(path).words
        except BadInput as error:
            said.append(str(error))
        else:
            assert all(isinstance(word, str) for word in words)
    assert len(said) > 150
    assert not any("\n" in message or len(message) > 1000 for message in said)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load_vocabulary(tmp_path / "none")


def test_checkpoints_that_hold_their_vocabulary() -> None:
    weights = {"linear.weight": torch.zeros(2, 2)}
    for tree in (
        {"state_dict": weights, "vocab": _ITOS},
        {"state_dict": weights, "hyper_parameters": {"vocabulary": list(YUNJEY)}},
        {"encoder": weights, "args": {"data": {"word2idx": _STOI}}},
    ):
        assert find_vocabulary(tree) == Vocabulary(YUNJEY)
    assert find_vocabulary({"state_dict": weights, "vocab_size": 30, "vocab": "vocab.pkl"}) is None
    with pytest.raises(BadInput, match="1 is missing"):
        find_vocabulary({"state_dict": weights, "vocab": {"a": 0, "b": 2}})


class Touch:
    """Would make a file if a pickle of it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{{"a": {"1" * 5000}}}', "begins like JSON and is not"),
        ('["<start>", "\\ud800", "<end>"]', "the word of the vocabulary's id 1 is '\\ud800', no valid text"),
    ],
)
def test_json_that_python_does_not_hold(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)):
        load_vocabulary(tmp_path / "words.json")


def test_text_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("word\n" * (32 << 18))
    with pytest.raises(BadInput, match=r"words\.txt has more than 33,554,432 characters, the limit of a vocabulary"):
        load_vocabulary(path)
    path.write_text("a" * ((32 << 20) - 2) + "\nb")
    assert load_vocabulary(path).words[1] == "b"


def test_a_long_line_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(f"a\n{',' * 200_000}")
    assert load_vocabulary(tmp_path / "words.txt").words == ("a", "," * 200_000)
