"""Reads a captioner's vocabulary, as text, JSON, or pickles, which are not run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import read_pickle
from resonnx_export.errors import BadInput

START: Final = "<start>"
END: Final = "<end>"
PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
_INDEX: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Vocabulary:
    """The word of each token id, and the training's options if the file has them (infos of ruotianluo's)."""

    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary file.

    One word a line, a JSON list, a JSON object {"word": id}; a pickled object of any class, or dict, with word2idx;
    pickled infos, {"vocab": {"1": "word"}, "opt": ...}, whose id 0 starts, ends and pads.

    Raises:
        BadInput: The file cannot be read, has another form, or ids are not 0, 1, 2, ... without gaps.
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
        return Vocabulary(_in_order(path, {number: word for word, number in content["word2idx"].items()}))
    if isinstance(content.get("vocab"), Mapping):
        words = {
            int(index) if _INDEX.fullmatch(str(index)) else index: word for index, word in content["vocab"].items()
        }
        # The file does not name token 0, which is never shown.
        return Vocabulary(_in_order(path, {0: END, **words}), _attributes(content.get("opt")))
    raise BadInput(f"{path} is a pickle without word2idx (a vocabulary) or vocab (infos)")


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read words in the order of their ids: one a line, a JSON list, or a JSON object; otherwise as load_vocabulary."""
    content = _read(path)
    if isinstance(content, dict):
        if not all(isinstance(number, int) for number in content.values()):
            raise BadInput(f'{path}: a vocabulary as a JSON object is {{"word": id, ...}}')
        return _in_order(path, {number: word for word, number in content.items()}, len(content))
    return _names(path, content)


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text") from None
    if text.lstrip()[:1] not in ("[", "{"):
        return text.rstrip().split("\n")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} begins like JSON and is not: {error}") from None


def _attributes(content: object) -> Mapping[str, Any]:
    if isinstance(content, Stub):
        return content.attributes
    return content if isinstance(content, Mapping) else {}


def _in_order(path: Path, names: Mapping[Any, Any], count: int | None = None) -> tuple[str, ...]:
    """Return the names 0 to count - 1; the count is that of the names by default."""
    count = len(names) if count is None else count
    if not all(isinstance(number, int) for number in names):
        raise BadInput(f"{path}: a vocabulary's ids must be numbers")
    if sorted(names) != list(range(count)):
        raise BadInput(f"{path}: the numbers must be 0 to {count - 1}, each once")
    return _names(path, [names[number] for number in range(count)])


def _names(path: Path, content: Any) -> tuple[str, ...]:
    """Return a list of names, stripped. Raises BadInput if `content` is no such list, or a name is empty."""
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise BadInput(f"{path} does not hold a list of names")
    names = tuple(name.strip() for name in content)
    if "" in names:
        raise BadInput(f"{path}: name {names.index('')} is empty")
    return names
