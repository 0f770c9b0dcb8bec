"""Finds the fields of a message in protobuf's text format with their places, whether or not the message is known."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

# A comment, a string, a name, a number, or a single character.
_PIECE: Final = re.compile(
    r"""\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_]\w*|[\d.][\w.+-]*|\S""", re.ASCII
)

# Names of fields, from the outermost to the innermost.
Path = tuple[str, ...]


# A configuration has about 8.
_MOST_NESTED: Final = 64


class TooDeep(Exception):
    """Messages are nested more than 64 deep."""


@dataclass(frozen=True)
class Field:
    """A field that has a value in the text; each element of a list of messages is one.

    Attributes:
        path: Its name after those of the messages around it: ("input", "reshape", "shape").
        line: Its line, from 1.
    """

    path: Path
    line: int


@dataclass(frozen=True)
class Span:
    """Where a field and its value or list of values stand in the text: from `start` up to `end`."""

    path: Path
    start: int
    end: int


class TextFields:
    """The fields of a text, in its order.

    `input [ { name: "a" }, { name: "b" } ]` has `input` and `input.name`, each twice, and the span of `input` once. Of
    a text that is no message, the fields up to some place are found.

    Raises:
        TooDeep: Messages are nested too deeply.
    """

    def __init__(self, text: str) -> None:
        self.fields: list[Field] = []
        self.spans: list[Span] = []
        self._lines: dict[Path, list[int]] = {}
        for found in _walk(text):
            if isinstance(found, Span):
                self.spans.append(found)
            else:
                self.fields.append(found)
                self._lines.setdefault(found.path, []).append(found.line)

    def line(self, *path: str, number: int = 0) -> int:
        """Return the line of a field of this path by its number, from 0; the last one's if there are fewer; else 0."""
        lines: Sequence[int] = self._lines.get(path, ())
        return lines[min(number, len(lines) - 1)] if lines else 0


def without(text: str, spans: Sequence[Span]) -> str:
    """Return a text with spaces in place of some fields; places of others stay."""
    parts, end = [], 0
    for span in sorted(spans, key=lambda span: span.start):
        parts += [text[end : span.start], re.sub(r"[^\n]", " ", text[span.start : span.end])]
        end = span.end
    return "".join([*parts, text[end:]])


@dataclass
class _Open:
    """A field whose value is being read: its name, line and place, and whether its value is a list."""

    name: str
    line: int
    start: int
    has_colon: bool = False
    is_list: bool = False
    is_told: bool = False


def _walk(text: str) -> Iterator[Field | Span]:
    path: list[str] = []
    around: list[_Open] = []
    field = _Open("", 0, 0)
    line, end = 1, 0
    for match in _PIECE.finditer(text):
        piece, start = match[0], match.start()
        line += text.count("\n", end, start)
        end = start
        ended = False
        if piece.startswith("#") or piece in (",", ";"):
            continue
        if piece == ":":
            field.has_colon = True
        elif piece in ("{", "<"):
            yield Field((*path, field.name), line if field.is_list else field.line)
            if len(path) == _MOST_NESTED:
                raise TooDeep
            path.append(field.name)
            around.append(field)
            field = _Open("", 0, 0)
        elif piece in ("}", ">"):
            if not around:
                return
            path.pop()
            field = around.pop()
            ended = not field.is_list
        elif piece == "[":
            field.is_list = True
        elif piece == "]":
            ended = True
        elif field.is_list or field.has_colon:
            # The values of a list are one field.
            if not field.is_told:
                yield Field((*path, field.name), field.line)
            field.is_told = True
            ended = not field.is_list
        elif piece[0].isalpha() or piece[0] == "_":
            field = _Open(piece, line, start)
        if ended:
            yield Span((*path, field.name), field.start, match.end())
            field = _Open("", 0, 0)
