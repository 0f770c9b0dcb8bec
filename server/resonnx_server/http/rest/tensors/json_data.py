"""Reads the data of inputs from JSON to arrays, in pieces (see protocol/pieces.py)."""

import binascii
import codecs
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from resonnx_server.errors import InvalidInput, UnreadableMessage
from resonnx_server.http.rest.tensors.json_cut import Span, string_end
from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime.bfloat16 import BFLOAT16, comparable, nearest
from resonnx_server.runtime.session import Array

# Parsed at once: about a millisecond.
_PIECE_BYTES: Final = 1 << 14
# Longest number, with the blanks around it.
_LONGEST_NUMBER: Final = 1 << 12
# Decoded at once, of base64 a multiple of four.
_STRING_PIECE_BYTES: Final = 1 << 20
_STRINGS: Final = 1 << 10

# Brackets that JSON does not allow where they are; json sees them as blanks.
_MISPLACED: Final = re.compile(rb"[^\s,\[]\s*\[|,\s*[\],]|\[\s*[\],]|\]\s*[^\s,\]]")
_FLATTENED: Final = bytes.maketrans(b"[]", b"  ")
_STRUCTURE: Final = b"[], \t\r\n"
_BEFORE_FIRST: Final = re.compile(rb"[\s\[]*")
_BETWEEN: Final = re.compile(rb"[\s\]]*,[\s\[]*")
_AFTER_LAST: Final = re.compile(rb"[\s\]]*")
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_BACKSLASH: Final = ord("\\")
# As protobuf's JSON writes them; Python's json reads them without quotes as well.
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class JsonData:
    """The data of one input.

    Attributes:
        text: The request.
        span: Where the data is.
        field: Name of the data in errors.
        is_base64: Its strings are base64, by the parameter `content_type`.
    """

    text: bytes | bytearray
    span: Span
    field: str
    is_base64: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the text."""
        start, end = self.span
        return end - start

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, are_files: bool) -> Work[Array]:
        """Return the input, whose data may be nested or flat.

        Args:
            shape: The input's shape.
            dtype: Its dtype; BYTES are objects.
            are_files: Strings are picture files, which JSON can only hold in base64.

        Raises:
            InvalidInput: The number of values does not fit the shape, or a value the dtype.
        """
        count = math.prod(shape)
        # A value and a comma take two bytes: a huge declared shape is refused before anything is allocated for it.
        if 2 * count - 1 > self.nbytes:
            raise InvalidInput(self.field, f"{self.nbytes} bytes cannot hold {count} values, of shape {list(shape)}")
        if dtype.hasobject:
            return (yield from self._strings(count, is_base64=are_files or self.is_base64)).reshape(shape)
        return (yield from self._numbers(count, dtype)).reshape(shape)

    def _numbers(self, count: int, dtype: np.dtype[Any]) -> Work[Array]:
        start, end = self.span
        array, filled, before = np.empty(count, dtype), 0, start
        if not count:
            self._check_empty()
            return array
        while before < end:
            stop = self._cut_at_comma(before)
            piece = bytes(self.text[before:stop])
            # With the comma before it.
            if _MISPLACED.search(self.text, max(start, before - 1), stop):
                raise InvalidInput(self.field, "the brackets are not those of a nested array of values")
            values = self._values(piece.translate(_FLATTENED).rstrip(b", \t\r\n"), dtype)
            if filled + len(values) > count:
                raise InvalidInput(self.field, f"more than {count} values, of which the shape has")
            array[filled : filled + len(values)] = values
            filled, before = filled + len(values), stop
            yield
        if filled != count:
            raise InvalidInput(self.field, f"{filled} values; the shape has {count}")
        return array

    def _cut_at_comma(self, before: int) -> int:
        """Return where a piece ends that begins at `before`: after a comma, or at the end."""
        end = self.span[1]
        if end - before <= _PIECE_BYTES:
            return end
        comma = self.text.rfind(b",", before, before + _PIECE_BYTES)
        if comma < 0:
            raise InvalidInput(self.field, f"a value is longer than {_LONGEST_NUMBER} bytes")
        return comma + 1

    def _values(self, piece: bytes, dtype: np.dtype[Any]) -> Array:
        """Return the values of a piece of flat JSON."""
        try:
            values: list[Any] = json.loads(b"[%b]" % piece)
        except (ValueError, RecursionError):
            raise InvalidInput(self.field, "is not an array of JSON numbers or booleans") from None
        kinds = set(map(type, values))
        if dtype.kind == "f" or dtype == BFLOAT16:
            return self._floats(values, kinds, dtype)
        if dtype.kind == "b":
            if not kinds <= {bool} and not (kinds <= {bool, int} and set(values) <= {0, 1}):
                raise InvalidInput(self.field, "must be true or false")
            return np.array(values, dtype)
        if not kinds <= {int}:
            raise InvalidInput(self.field, "must be whole numbers")
        limits = np.iinfo(dtype)
        if values and not limits.min <= min(values) <= max(values) <= limits.max:
            raise InvalidInput(self.field, f"a value is not within {limits.min}..{limits.max}")
        return np.array(values, dtype)

    def _floats(self, values: list[Any], kinds: set[type], dtype: np.dtype[Any]) -> Array:
        if str in kinds:
            values = [_SPECIAL.get(value, value) if isinstance(value, str) else value for value in values]
            kinds = set(map(type, values))
        if not kinds <= {int, float}:
            raise InvalidInput(self.field, 'must be numbers, or "NaN", "Infinity" or "-Infinity"')
        try:
            doubles = np.array(values, np.float64)
        except OverflowError:
            raise InvalidInput(self.field, "a value is too large") from None
        with np.errstate(over="ignore"):
            array = nearest(doubles.astype(np.float32)) if dtype == BFLOAT16 else doubles.astype(dtype)
        numbers = comparable(array)
        if not np.isfinite(numbers).all() and not np.array_equal(np.isinf(numbers), np.isinf(doubles)):
            most = "3.39e38" if dtype == BFLOAT16 else str(np.finfo(dtype).max)
            raise InvalidInput(self.field, f"a value is not within -{most}..{most}")
        return array

    def _check_empty(self) -> None:
        """Raise InvalidInput unless the data are arrays without values."""
        start, end = self.span
        text = bytes(self.text[start : min(end, start + _LONGEST_NUMBER)])
        if end - start > _LONGEST_NUMBER or text.translate(None, _STRUCTURE):
            raise InvalidInput(self.field, "has values; the shape has none")
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInput(self.field, "is not an array of arrays") from None

    def _strings(self, count: int, *, is_base64: bool) -> Work[Array]:
        start, end = self.span
        elements = np.empty(count, object)
        position, between = start, _BEFORE_FIRST
        for index in range(count):
            quote = self.text.find(b'"', position, end)
            if quote < 0:
                raise InvalidInput(self.field, f"{index} strings; the shape has {count}")
            self._check_between(between, position, quote)
            try:
                position = yield from string_end(self.text, quote, end)
            except UnreadableMessage:
                raise InvalidInput(self.field, "a string breaks off") from None
            content = memoryview(self.text)[quote + 1 : position - 1]
            field = f"{self.field}[{index}]"
            elements[index] = yield from (_from_base64(content, field) if is_base64 else _text(content, field))
            between = _BETWEEN
            if index % _STRINGS == _STRINGS - 1:
                yield
        if self.text.find(b'"', position, end) >= 0:
            raise InvalidInput(self.field, f"more than {count} strings, of which the shape has")
        if count:
            self._check_between(_AFTER_LAST, position, end)
        else:
            self._check_empty()
        return elements

    def _check_between(self, pattern: re.Pattern[bytes], start: int, end: int) -> None:
        if end - start > _LONGEST_NUMBER or pattern.fullmatch(self.text, start, end) is None:
            raise InvalidInput(self.field, "must be an array of strings, which BYTES are in JSON")


def _from_base64(content: memoryview, field: str) -> Work[bytes]:
    parts = []
    start, size = 0, len(content)
    rest, is_padded = b"", False
    while start < size:
        stop = min(start + _STRING_PIECE_BYTES, size)
        # Not within an escape.
        while stop < size and content[stop - 1] == _BACKSLASH:
            stop += 1
        piece = rest + bytes(content[start:stop])
        if b"\\" in piece:
            # Some writers of JSON escape the slash.
            piece = piece.replace(b"\\/", b"/")
        whole = len(piece) - len(piece) % 4
        if stop == size and whole < len(piece):
            raise InvalidInput(field, "is not base64 (its length is no multiple of 4)")
        if whole and is_padded:
            raise InvalidInput(field, "is not base64 (padding before its end)")
        try:
            parts.append(binascii.a2b_base64(piece[:whole], strict_mode=True))
            is_padded = is_padded or b"=" in piece[:whole]
        except binascii.Error as error:
            raise InvalidInput(field, f"is not base64 ({error})") from None
        rest, start = piece[whole:], stop
        if stop < size:
            yield
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _text(content: memoryview, field: str) -> Work[bytes]:
    """Return a string's text in UTF-8."""
    if len(content) <= _STRING_PIECE_BYTES:
        try:
            text: str = json.loads(b'"%b"' % bytes(content))
            return text.encode()
        except ValueError:
            # Control characters, and half of a surrogate pair.
            raise InvalidInput(field, "is not a JSON string of text; send other bytes in base64") from None
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _STRING_PIECE_BYTES):
        piece = bytes(content[start : start + _STRING_PIECE_BYTES])
        if b"\\" in piece:
            raise InvalidInput(field, f"has escapes in more than {_STRING_PIECE_BYTES} bytes; send it as binary data")
        try:
            decoder.decode(piece, final=start + _STRING_PIECE_BYTES >= len(content))
        except UnicodeDecodeError:
            raise InvalidInput(field, "is not UTF-8; send other bytes in base64") from None
        if _CONTROL.search(piece):
            raise InvalidInput(field, "has control characters, which JSON writes as escapes")
        yield
    return bytes(content)
