"""Cuts the data of inputs out of a JSON request, in pieces (see protocol/pieces.py), so that the rest is small.

json's own parser holds the GIL until it has read the whole text.
"""

import json
import re
from typing import Any, Final, NamedTuple

import numpy as np

from resonnx_server.errors import InvalidInput, UnreadableMessage
from resonnx_server.protocol.pieces import Work

# Text beside the data of inputs: names, shapes, parameters.
_MOST_REST: Final = 1 << 17
_DEEPEST: Final = 32
# Searched at once: less than a millisecond.
_PIECE_BYTES: Final = 1 << 16
_STRING_PIECE_BYTES: Final = 1 << 20
_TOKENS: Final = 1 << 10
_STRINGS: Final = 1 << 8
# Each takes some microseconds.
_MOST_STRINGS: Final = 1 << 18
_MOST_ESCAPES: Final = 1 << 20
# Text between two strings that is not worth NumPy's overhead.
_SHORT: Final = 64

_STRUCTURE: Final = re.compile(rb'["{}\[\],]')
_VALUE: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT, _COMMA = b"[]{},"

# Start and end of a JSON array in the text.
Span = tuple[int, int]


class CutJson(NamedTuple):
    """A request without the data of its inputs.

    Attributes:
        head: The parsed rest, in which each input's `data` is an index into `data`.
        data: Where the arrays are.
    """

    head: Any
    data: list[Span]


def cut_json(text: bytes | bytearray, end: int) -> Work[CutJson]:
    """Parse a request that is the first `end` bytes of a text.

    Raises:
        UnreadableMessage: It is not JSON.
        InvalidInput: An input's data is not an array, the rest is too long, or it is nested too deeply.
    """
    spans: list[Span] = []
    kept: list[bytes] = []
    size = copied = position = tokens = 0
    # For each object that is open, its last key; None for each array.
    keys: list[bytes | None] = []
    is_key_due = False
    while position < end:
        if position - copied + size > _MOST_REST:
            raise InvalidInput("request", f"more than {_MOST_REST} bytes of JSON beside the data of inputs")
        tokens += 1
        if not tokens % _TOKENS:
            yield
        found = _STRUCTURE.search(text, position, min(end, position + _PIECE_BYTES))
        if found is None:
            position += _PIECE_BYTES
            continue
        position, token = found.end(), text[found.start()]
        if token == _QUOTE:
            position = yield from string_end(text, found.start(), end)
            if is_key_due:
                keys[-1], is_key_due = bytes(text[found.start() + 1 : position - 1]), False
                if _is_data(keys):
                    start = _value_start(text, position, end)
                    position = start
                    if text[start : start + 4] == b"null":
                        continue
                    if text[start : start + 1] != b"[":
                        raise InvalidInput("inputs", "data must be an array")
                    kept += (bytes(text[copied:start]), str(len(spans)).encode())
                    size += start - copied
                    position = copied = yield from _array_end(text, start, end)
                    spans.append((start, position))
        elif token == _COMMA:
            is_key_due = bool(keys) and keys[-1] is not None
        elif token in (_OPEN, _OPEN_OBJECT):
            is_key_due = token == _OPEN_OBJECT
            keys.append(b"" if is_key_due else None)
            if len(keys) > _DEEPEST:
                raise InvalidInput("request", f"JSON that is nested deeper than {_DEEPEST}")
        else:
            if not keys or (keys.pop() is None) != (token == _CLOSE):
                raise UnreadableMessage("the request is not JSON: brackets do not match")
            is_key_due = False
            if not keys:
                break
    if end - copied + size > _MOST_REST:
        raise InvalidInput("request", f"more than {_MOST_REST} bytes of JSON beside the data of inputs")
    kept.append(bytes(text[copied:end]))
    return CutJson(parse_json(b"".join(kept)), spans)


def parse_json(text: bytes | bytearray) -> Any:
    """Parse a short JSON text at once. Raises UnreadableMessage if it is not JSON."""
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise UnreadableMessage("the request is not JSON: it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UnreadableMessage(f"the request is not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits.
        raise UnreadableMessage("the request is not JSON that can be read") from None


def string_end(text: bytes | bytearray, start: int, end: int) -> Work[int]:
    """Return where the string that begins at `start` ends, after its quote. Raises UnreadableMessage if it does not."""
    # No quote is between `position` and `clear`, where one is unless `quote` is -1.
    position, quote, clear, escapes = start + 1, -1, start + 1, 0
    while position < end:
        if clear <= position and quote < position:
            quote = text.find(b'"', position, min(position + _STRING_PIECE_BYTES, end))
            clear = quote if quote >= 0 else min(position + _STRING_PIECE_BYTES, end)
        escape = text.find(b"\\", position, clear)
        if escape >= 0:
            position, escapes = escape + 2, escapes + 1
            if not escapes % _TOKENS:
                yield
            if escapes > _MOST_ESCAPES:
                raise InvalidInput("request", f"a string with more than {_MOST_ESCAPES} escapes; send binary data")
        elif quote == clear:
            return quote + 1
        else:
            position = clear
            yield
    raise UnreadableMessage("the request is not JSON: a string breaks off")


def _is_data(keys: list[bytes | None]) -> bool:
    """Whether the last key is `data` of an object in the top array `inputs`."""
    return len(keys) == 3 and keys[0] == b"inputs" and keys[1] is None and keys[2] == b"data"


def _value_start(text: bytes | bytearray, position: int, end: int) -> int:
    found = _VALUE.match(text, position, min(end, position + _PIECE_BYTES))
    if found is None:
        raise UnreadableMessage("the request is not JSON: ':' is missing after a key")
    return found.end()


def _array_end(text: bytes | bytearray, start: int, end: int) -> Work[int]:
    """Return where the array that begins at `start` ends, after its bracket."""
    depth, position, strings = 0, start, 0
    while position < end:
        stop = min(position + _PIECE_BYTES, end)
        quote = text.find(b'"', position, stop)
        depth, closed = _depths(text, position, stop if quote < 0 else quote, depth)
        if closed is not None:
            return closed
        if quote < 0:
            position = stop
            yield
            continue
        position, strings = (yield from string_end(text, quote, end)), strings + 1
        if strings > _MOST_STRINGS:
            raise InvalidInput("inputs", f"data has more than {_MOST_STRINGS} strings; send them as binary data")
        if not strings % _STRINGS:
            yield
    raise UnreadableMessage("the request is not JSON: an array breaks off")


def _depths(text: bytes | bytearray, start: int, stop: int, depth: int) -> tuple[int, int | None]:
    """Return how deep the text without strings from `start` to `stop` ends, and where the array ends if it does."""
    if stop - start < _SHORT:
        part = text[start:stop]
        if b"[" not in part and b"]" not in part and b"{" not in part:
            return depth, None
    piece = np.frombuffer(text, np.uint8, stop - start, start)
    closes = piece == _CLOSE
    depths = depth + np.cumsum((piece == _OPEN).astype(np.int64) - closes)
    ends = np.flatnonzero(closes & (depths == 0))
    # What follows the array is no data: the next input, say.
    inside = slice(None, int(ends[0])) if len(ends) else slice(None)
    if (piece[inside] == _OPEN_OBJECT).any():
        raise InvalidInput("inputs", "data must be an array of numbers, booleans or strings")
    if depths[inside].max(initial=0) > _DEEPEST:
        raise InvalidInput("inputs", f"data is nested deeper than {_DEEPEST}")
    if len(ends):
        return 0, start + int(ends[0]) + 1
    return int(depths[-1]) if len(depths) else depth, None
