"""Reads a captioner's vocabulary from text, JSON, pickles and files of torch.save, none of which is run."""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import read_objects, read_pickle
from resonnx_export.errors import BadInput
from resonnx_export.wording import is_text

END: Final = "<end>"
PAD: Final = "<pad>"
_INDEX: Final = re.compile(r"[0-9]{1,9}")
# Lines of a word and its id, in either order.
_NUMBERED: Final = (
    re.compile(r"(?P<word>\S+)[\s,:]+(?P<id>[0-9]{1,9})"),
    re.compile(r"(?P<id>[0-9]{1,9})[\s,:]+(?P<word>\S+)"),
)
# 30 times the text of 100,000 words with their ids.
_MAX_TEXT: Final = 32 << 20
# With longer lines the patterns would take long.
_LONGEST_LINE: Final = 1000
# A first line of text that looks like JSON.
_BRACKETED: Final = re.compile(r"\[\w+\]")
# Attributes and keys that hold word -> id, and id -> word or a list of words.
_WORD_TO_ID: Final = (
    "word2idx", "stoi", "word_to_idx", "word2index", "word_to_index", "word2id", "word_to_id", "word_index", "w2i",
    "wordtoix", "word_to_ix", "word_map", "wordmap", "token_to_id", "token2idx",
)  # fmt: skip
_ID_TO_WORD: Final = (
    "itos", "idx2word", "idx_to_word", "index2word", "index_to_word", "id2word", "id_to_word", "index_word", "i2w",
    "ixtoword", "id_to_token", "idx2token",
)  # fmt: skip
# Keys whose value is a vocabulary of any form, here and in checkpoints.
_HOLDERS: Final = ("vocab", "vocabulary", "ix_to_word", "vocab_dict", "voc", "tokenizer")
# Sources that number words from 1: id 0 ends captions (ruotianluo's), or pads them (Keras' Tokenizer).
_FROM_ONE: Final = {"vocab": END, "ix_to_word": END, "word_index": PAD, "index_word": PAD}
_PROTOCOL_0: Final = (b"(dp", b"(lp", b"ccopy_reg\n", b"ccollections\n", b"c__main__\n")
_HEAD_BYTES: Final = 16
# torch.save wrote this number first before its zip format.
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_MAX_DEPTH: Final = 3
_LISTED: Final = 6


@dataclass(frozen=True)
class Vocabulary:
    """The word of each token id, and the training's options if the file has them (infos of ruotianluo's).

    Raises BadInput if a word is no valid Unicode.
    """

    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = next((number for number, word in enumerate(self.words) if not is_text(word)), None)
        if wrong is not None:
            raise BadInput(f"the word of the vocabulary's id {wrong} is {self.words[wrong]!a}, no valid text")


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary file; its format is detected from the content.

    Text has one word a line, or a word and its id. JSON, pickles and files of torch.save hold a list of words, a dict
    word -> id or id -> word, or an object of any class (or a dict) with one of these as `word2idx`, `stoi`, `itos` and
    the like. Pickled infos, {"vocab": {"1": "word"}, "opt": ...}, have the id 0 for start, end and padding.

    Raises:
        BadInput: The file cannot be read, has another form, or ids are not 0, 1, 2, ... without gaps; the message names
            the content found.
    """
    content = _read(path)
    try:
        found = _parse(content)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    if found is None:
        raise BadInput(
            f"{path} holds no vocabulary but {_describe(content)}; known are a list of words, word -> id, id -> word, "
            "and objects or dicts with word2idx, stoi or itos"
        )
    return found


def find_vocabulary(tree: object) -> Vocabulary | None:
    """Find the vocabulary in a checkpoint's containers; None if there is none.

    Raises:
        BadInput: An entry named as a vocabulary has ids with gaps, or disagrees with itself.
    """
    waiting, seen = deque([(tree, 0)]), set[int]()
    while waiting:
        content, depth = waiting.popleft()
        # Modules of the network have children of any name.
        if id(content) in seen or (isinstance(content, Stub) and "_modules" in content.attributes):
            continue
        seen.add(id(content))
        entries = _entries(content)
        if any(isinstance(entries.get(name), Mapping | list) for name in (*_WORD_TO_ID, *_ID_TO_WORD)):
            return _parse(content)
        for name, value in entries.items():
            if str(name).lower() in _HOLDERS and (found := _parse(value)) is not None:
                return found
            if depth < _MAX_DEPTH and isinstance(value, Mapping | Stub):
                waiting.append((value, depth + 1))
    return None


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(b"PK"):
        return read_objects(path)
    if head.startswith((b"\x80", *_PROTOCOL_0)):
        content = read_pickle(path)
        return read_objects(path) if content == _LEGACY_MAGIC else content
    return _read_text(path)


def _read_text(path: Path) -> object:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_TEXT + 1).strip()
            is_longer = bool(file.read(1)) or len(text) > _MAX_TEXT
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is neither UTF-8 text nor a pickle") from None
    if is_longer:
        raise BadInput(
            f"{path} has more than {_MAX_TEXT:,} characters, the limit of a vocabulary's text; give the file with the "
            "captioner's words alone, one a line"
        )
    lines = [line.strip() for line in text.split("\n")]
    if text.startswith(("[", "{")) and not _BRACKETED.fullmatch(lines[0]):
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadInput(f"{path} begins like JSON and is not: {error}") from None
        except RecursionError:
            raise BadInput(f"{path} is JSON nested too deeply for a vocabulary") from None
    if "" in lines:
        raise BadInput(f"{path}: line {lines.index('') + 1} is empty")
    for pattern in _NUMBERED if max(map(len, lines)) <= _LONGEST_LINE else ():
        matches = list(filter(None, map(pattern.fullmatch, lines)))
        if len(matches) == len(lines):
            numbers = {int(match["id"]): match["word"] for match in matches}
            if numbers.keys() != set(range(len(lines))):
                raise BadInput(
                    f"{path} has a word and a number on each line, and the numbers are not the ids 0 to "
                    f"{len(lines) - 1}, each once"
                )
            return numbers
    return lines


def _parse(content: object, depth: int = _MAX_DEPTH) -> Vocabulary | None:
    """Return the vocabulary of an object. Raises BadInput, without the file's name, if it has the form but errors."""
    if isinstance(content, Stub) and isinstance(content.state, tuple):
        # The state of torchtext's Vocab: (version, [], words, []).
        content = next((part for part in content.state if _is_words(part)), content)
    if isinstance(content, list | tuple):
        return Vocabulary(tuple(content)) if _is_words(content) else None
    entries = _entries(content)
    by_word = next((name for name in _WORD_TO_ID if isinstance(entries.get(name), Mapping)), None)
    by_id = next((name for name in _ID_TO_WORD if isinstance(entries.get(name), Mapping | list)), None)
    if by_id is not None:
        words = _by_id(entries[by_id], _FROM_ONE.get(by_id))
        if by_word is not None:
            _check_agreement(words, entries[by_word])
        return Vocabulary(words)
    if by_word is not None:
        return Vocabulary(_by_word(entries[by_word], _FROM_ONE.get(by_word)))
    if (named := next((name for name in _HOLDERS if name in entries), None)) and depth:
        value = entries[named]
        if named in _FROM_ONE and isinstance(value, Mapping) and all(isinstance(word, str) for word in value.values()):
            return Vocabulary(_by_id(value, _FROM_ONE[named]), _entries(entries.get("opt")))
        return _parse(value, depth - 1)
    # Attributes of an object of another class are no words.
    return _plain((content.items or {}) if isinstance(content, Stub) else entries)


def _plain(entries: Mapping[Any, Any]) -> Vocabulary | None:
    """Return the vocabulary of word -> id, or of id -> word; None for other dicts."""
    if _is_word_to_id(entries):
        return Vocabulary(_by_word(entries, None))
    if entries and all(_number(key) is not None and isinstance(word, str) for key, word in entries.items()):
        return Vocabulary(_by_id(entries, None))
    return None


def _is_words(content: object) -> bool:
    return isinstance(content, list | tuple) and bool(content) and all(isinstance(word, str) for word in content)


def _is_word_to_id(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(word, str) and type(number) is int for word, number in content.items())


def _number(key: object) -> int | None:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    return int(key) if isinstance(key, str) and _INDEX.fullmatch(key) else None


def _by_word(words: Mapping[Any, Any], zero: str | None) -> tuple[str, ...]:
    if not all(type(number) is int for number in words.values()):
        raise BadInput("a vocabulary's ids must be numbers")
    if len(set(words.values())) < len(words):
        raise BadInput("two words of the vocabulary have the same id")
    return _by_id({number: word for word, number in words.items()}, zero)


def _by_id(words: Mapping[Any, Any] | Sequence[Any], zero: str | None) -> tuple[str, ...]:
    """Return the words in the order of their ids; `zero` is the word of id 0 in sources that number from 1."""
    numbered: dict[int, Any] = {}
    for key, word in words.items() if isinstance(words, Mapping) else enumerate(words):
        if (number := _number(key)) is None:
            raise BadInput("a vocabulary's ids must be numbers")
        if not isinstance(word, str):
            raise BadInput(f"the word of the vocabulary's id {number} is no text")
        if number in numbered:
            raise BadInput(f"two words of the vocabulary have the id {number}")
        numbered[number] = word
    if zero is not None:
        numbered.setdefault(0, zero)
    missing = next((number for number in range(len(numbered)) if number not in numbered), None)
    if missing is not None or not numbered:
        raise BadInput(f"a vocabulary's ids must be 0 to {len(numbered) - 1}, each once; {missing} is missing")
    return tuple(numbered[number] for number in range(len(numbered)))


def _check_agreement(words: tuple[str, ...], by_word: Mapping[Any, Any]) -> None:
    """Raise BadInput if word -> id disagrees with the words in the order of their ids."""
    for word, number in by_word.items():
        if type(number) is not int or not 0 <= number < len(words) or words[number] != word:
            raise BadInput(f"the vocabulary's two directions disagree: {word!r} has the id {number!r} in one of them")


def _entries(content: object) -> Mapping[Any, Any]:
    if isinstance(content, Stub):
        return {**(content.items or {}), **content.attributes}
    return content if isinstance(content, Mapping) else {}


def _describe(content: object) -> str:
    names = ", ".join(map(str, list(_entries(content))[:_LISTED]))
    if isinstance(content, Stub):
        return f"an object {content.path}" + (f" with {names}" if names else "")
    if isinstance(content, Mapping):
        return f"a dict with the keys {names}" if content else "an empty dict"
    return f"a {type(content).__name__}"
