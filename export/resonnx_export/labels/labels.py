"""Reads the files that name what a network answers: a classifier's labels, a captioner's vocabulary."""

import json
from pathlib import Path
from typing import Any, Final

from resonnx_export.errors import BadInput

START: Final = "<start>"
END: Final = "<end>"
PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels in the order of their classes: one a line, a JSON list, or a JSON object {"0": "name"}.

    Raises:
        BadInput: The file cannot be read, is none of these, or leaves a class without a name.
    """
    content = _read(path)
    if isinstance(content, dict):
        if not all(key.isascii() and key.isdigit() for key in content):
            raise BadInput(f'{path}: labels as a JSON object are {{"0": "name", ...}}')
        content = in_order(path, {int(key): name for key, name in content.items()}, len(content))
    return as_names(path, content)


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read words in the order of their ids: one a line, a JSON list, or a JSON object {"word": id}.

    Raises:
        BadInput: The file cannot be read, is none of these, or ids are not 0, 1, 2, ... without gaps.
    """
    content = _read(path)
    if isinstance(content, dict):
        if not all(isinstance(number, int) for number in content.values()):
            raise BadInput(f'{path}: a vocabulary as a JSON object is {{"word": id, ...}}')
        content = in_order(path, {number: word for word, number in content.items()}, len(content))
    return as_names(path, content)


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


def in_order(path: Path, names: dict[int, Any], count: int) -> list[Any]:
    """Return the names 0 to count - 1. Raises BadInput if one is missing."""
    if sorted(names) != list(range(count)):
        raise BadInput(f"{path}: the numbers must be 0 to {count - 1}, each once")
    return [names[number] for number in range(count)]


def as_names(path: Path, content: Any) -> tuple[str, ...]:
    """Return a list of names, stripped. Raises BadInput if it is none, or a name is empty."""
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise BadInput(f"{path} does not hold a list of names")
    names = tuple(name.strip() for name in content)
    if "" in names:
        raise BadInput(f"{path}: name {names.index('')} is empty")
    return names
