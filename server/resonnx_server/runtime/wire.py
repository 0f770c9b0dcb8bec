"""Protobuf's wire format for large messages and files: finding fields without a copy, and packed numbers.

Protobuf's own parser holds the GIL until it has read, and copied, the whole message.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_LONGEST_VARINT: Final = 10
# Sizes of outputs, mostly.
_KEPT_OPENINGS: Final = 1024

Bytes = npt.NDArray[np.uint8]


class Field(NamedTuple):
    """A field of a message: its number, wire type, and positions of the field, of its content, and of their end."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def fields(message: memoryview) -> Iterator[Field]:
    """Yield a message's fields in their order. Raises DecodeError if it does not parse."""
    position, size = 0, len(message)
    while position < size:
        start = position
        key, position = _varint(message, position)
        kind = key & 7
        content = position
        if kind == BYTES:
            length, content = _varint(message, position)
            position = content + length
        elif kind == VARINT:
            _, position = _varint(message, position)
        elif kind == FIXED32:
            position += 4
        elif kind == FIXED64:
            position += 8
        else:
            raise DecodeError(f"wire type {kind}")
        if position > size or not key >> 3:
            raise DecodeError("a field breaks off")
        yield Field(key >> 3, kind, start, content, position)


@lru_cache
@lru_cache(_KEPT_OPENINGS)
def opening(number: int, length: int) -> bytes:
    """Return the tag and length that precede a field of bytes."""
    written = bytearray()
    for value in (number << 3 | BYTES, length):
        rest = value
        while rest > 0x7F:
            written.append(rest & 0x7F | 0x80)
            rest >>= 7
        written.append(rest)
    return bytes(written)


def varint(content: memoryview) -> int:
    """Return the number of a VARINT field. Raises DecodeError if it breaks off."""
    return _varint(content, 0)[0]


def varints(packed: Bytes) -> npt.NDArray[np.uint64]:
    """Return packed numbers, none of them truncated. Raises DecodeError if one is longer than a varint may be."""
    ends = np.flatnonzero(packed < 0x80)
    if len(ends) == len(packed):
        return packed.astype(np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > _LONGEST_VARINT:
        raise DecodeError("a number is too long")
    values = (packed[starts] & 0x7F).astype(np.uint64)
    for place in range(1, longest):
        (more,) = np.nonzero(lengths > place)
        values[more] |= (packed[starts[more] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return values


def count_varints(packed: Bytes) -> int:
    """Return how many numbers are packed. Raises DecodeError if the last one breaks off."""
    if len(packed) and packed[-1] >= 0x80:
        raise DecodeError("a number breaks off")
    return int(np.count_nonzero(packed < 0x80))


def pieces_of_varints(packed: Bytes, size: int) -> Iterator[Bytes]:
    """Cut packed numbers into pieces of about `size` bytes, between numbers.

    Raises DecodeError if one at a cut is longer than a varint may be.
    """
    start = 0
    while start < len(packed):
        end = min(start + size, len(packed))
        longest = end + _LONGEST_VARINT
        while end < len(packed) and packed[end - 1] >= 0x80:
            end += 1
            if end > longest:
                raise DecodeError("a number is too long")
        yield packed[start:end]
        start = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while (byte := message[position]) > 0x7F:
            value |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            if shift >= 7 * _LONGEST_VARINT:
                raise DecodeError("a number is too long")
    except IndexError:
        raise DecodeError("a number breaks off") from None
    return value | byte << shift, position + 1
