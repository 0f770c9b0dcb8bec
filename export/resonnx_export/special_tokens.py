"""Finds the tokens that start, end and pad captions among a vocabulary's words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from resonnx_export.errors import BadInput

# The tokens' names between brackets, and without.
_BRACKETED: Final = {
    "start": ("start", "sos", "bos", "s", "cls", "go", "startoftext", "startofseq", "startseq", "begin"),
    "end": ("end", "eos", "/s", "sep", "endoftext", "endofseq", "endseq", "stop"),
    "pad": ("pad", "padding", "null"),
    "unk": ("unk", "unknown", "oov"),
}
_BARE: Final = {
    "start": ("startseq", "startofseq", "sos", "bos", "xxbos"),
    "end": ("endseq", "endofseq", "eos", "xxeos"),
    "pad": ("xxpad",),
    "unk": ("unk", "xxunk"),
}
_BRACKETS: Final = re.compile(r"[<\[{#|_]+(.+?)(?:[ _-]?token)?[>\]}#|_]+")
# Longer words are none, and would take the pattern long.
_LONGEST: Final = 40
_LISTED: Final = 6


def _option(role: str, text: str) -> object:
    return typer.Option(f"--{role}-token", metavar="WORD", help=f"{text}.  [default: found by its name]")


@dataclass(frozen=True)
class SpecialTokens:
    """The words that start, end and pad captions and stand for unknown words; None to find them by their names."""

    start_token: Annotated[str | None, _option("start", "The word that starts captions, such as <start>")] = None
    end_token: Annotated[str | None, _option("end", "The word that ends captions, such as <end>")] = None
    pad_token: Annotated[str | None, _option("pad", "The word that fills captions up, such as <pad>")] = None
    unk_token: Annotated[str | None, _option("unk", "The word that stands for unknown words, such as <unk>")] = None

    def start(self, words: Sequence[str]) -> int:
        """Return the id of the start token. Raises BadInput if there is none, or more than one may be meant."""
        return _required("start", self.start_token, words)

    def end(self, words: Sequence[str]) -> int:
        """Return the id of the end token. Raises as `start`."""
        return _required("end", self.end_token, words)

    def pad(self, words: Sequence[str]) -> int | None:
        """Return the id of the padding, or None. Raises BadInput if the word given is not in the vocabulary."""
        return _optional("pad", self.pad_token, words)

    def unknown(self, words: Sequence[str]) -> int | None:
        """Return the id of the token for unknown words, or None. Raises as `pad`."""
        return _optional("unk", self.unk_token, words)

    def check_first(self, layout: str, words: Sequence[str]) -> None:
        """Raise BadInput if a token other than id 0 is given for a layout whose id 0 starts, ends and pads captions."""
        for role, word in (("start", self.start_token), ("end", self.end_token), ("pad", self.pad_token)):
            if word is not None and word != words[0]:
                raise BadInput(f"--{role}-token {word!r}: layout {layout} starts, ends and pads captions with id 0")


def _required(role: str, given: str | None, words: Sequence[str]) -> int:
    found = _found(role, given, words)
    if not found:
        shown = ", ".join([*words[:_LISTED], "...", *words[-2:]] if len(words) > _LISTED + 2 else words)
        raise BadInput(
            f"the vocabulary lacks a token as <{role}>; name it with --{role}-token WORD (the words are {shown})"
        )
    if len(found) > 1:
        named = " and ".join(words[i] for i in found[:3])
        raise BadInput(f"the vocabulary has {named}, which may each be <{role}>; name one with --{role}-token WORD")
    return found[0]


def _optional(role: str, given: str | None, words: Sequence[str]) -> int | None:
    return next(iter(_found(role, given, words)), None)


def _found(role: str, given: str | None, words: Sequence[str]) -> list[int]:
    """Return the ids of the words that have a role."""
    name = f"<{role}>" if given is None else given
    if name in words:
        return [words.index(name)]
    if given is not None:
        raise BadInput(f"--{role}-token {given!r} is not in the vocabulary")
    return [i for i, word in enumerate(words) if _has_role(word, role)]


def _has_role(word: str, role: str) -> bool:
    lower = word.strip().lower()
    match = _BRACKETS.fullmatch(lower) if len(lower) <= _LONGEST else None
    return lower in _BARE[role] or (match is not None and match[1] in _BRACKETED[role])
