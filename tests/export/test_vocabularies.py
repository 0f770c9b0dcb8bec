"""Vocabulary files of every source are read, and never run."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.labels import Vocabulary, load_vocabulary

from .caption_exports import (
    UDACITY,
    YUNJEY,
    write_vocabulary,
)

pytestmark = pytest.mark.usefixtures("torch_seeded")


def test_vocabularies_are_read_and_not_run(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "vocab.pkl", "build_vocab", YUNJEY)
    assert load_vocabulary(path).words == YUNJEY
    path.write_bytes(pickle.dumps({"word2idx": {word: i for i, word in enumerate(UDACITY)}}))
    assert load_vocabulary(path).words == UDACITY
    path.write_bytes(pickle.dumps({"vocab": {"1": "a", "2": "UNK"}, "opt": argparse.Namespace(seq_length=9)}))
    assert load_vocabulary(path) == Vocabulary(("<end>", "a", "UNK"), {"seq_length": 9})
    for content, said in (
        ({"word2idx": {"a": 0, "b": 2}}, "0 to 1"),
        ({"word2idx": {"a": "x"}}, "must be numbers"),
        ({"vocab": {"x": "a"}}, "must be numbers"),
        ({"vocab": {"9" * 5000: "a"}}, "must be numbers"),
        (Touch(tmp_path / "touched"), "without word2idx"),
        (7, "without word2idx"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(BadInput, match=said):
            load_vocabulary(path)
    assert not (tmp_path / "touched").exists()


class Touch:
    """Would make a file if a pickle of it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")
