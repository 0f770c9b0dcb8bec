"""Reads a captioner's vocabulary in every form that the sources write: text, JSON, and pickles, which are not run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from resonnx_export.checkpoints.unpickle import Stub, read_pickle
from resonnx_export.errors import BadInput
from resonnx_export.labels.labels import END, as_names, in_order, read_vocabulary

_INDEX: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Vocabulary:
    """The word of each token id, and the training's options where the file has them (infos of ruotianluo's)."""

    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary file.

    One word a line, a JSON list, a JSON object {"word": id}; a pickled object with word2idx, of whatever class, or the
    same as a dict; pickled infos, {"vocab": {"1": "word"}, "opt": ...}, whose id 0 starts, ends and pads.

    Raises:
        BadInput: The file cannot be read, is none of these, or ids are not 0, 1, 2, ... without gaps.
    """
    try:
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80"
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if not pickled:
        return Vocabulary(read_vocabulary(path))
    content = _attributes(read_pickle(path))
    if isinstance(content.get("word2idx"), Mapping):
        return Vocabulary(_words(path, {number: word for word, number in content["word2idx"].items()}))
    if isinstance(content.get("vocab"), Mapping):
        # Not the token's own name, which no file tells; it never shows.
        words = {
            int(index) if _INDEX.fullmatch(str(index)) else index: word for index, word in content["vocab"].items()
        }
        return Vocabulary(_words(path, {0: END, **words}), _attributes(content.get("opt")))
    raise BadInput(f"{path} is a pickle without word2idx (a vocabulary) or vocab (infos)")


def _attributes(content: object) -> Mapping[str, Any]:
    if isinstance(content, Stub):
        return content.attributes
    return content if isinstance(content, Mapping) else {}


def _words(path: Path, words: Mapping[Any, Any]) -> tuple[str, ...]:
    if not all(isinstance(number, int) for number in words):
        raise BadInput(f"{path}: a vocabulary's ids must be numbers")
    return as_names(path, in_order(path, dict(words), len(words)))
