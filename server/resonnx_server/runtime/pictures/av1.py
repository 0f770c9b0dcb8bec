"""Reads frame sizes from the sequence headers of an AV1 bit stream (AV1 specification, 5.3 to 5.5)."""

from typing import Final

_SEQUENCE_HEADER: Final = 1
# Limits for a still picture. Encoders write three or four units, one sequence header among them; some repeat it.
_MAX_UNITS: Final = 64
_MAX_SEQUENCES: Final = 4


def frame_sizes(stream: bytes | memoryview) -> list[tuple[int, int]] | None:
    """Return the largest width and height of each sequence's frames; None if it is not a still picture's stream."""
    sizes: list[tuple[int, int]] = []
    position = 0
    for _ in range(_MAX_UNITS):
        if position >= len(stream):
            return sizes or None
        head = stream[position]
        position += 2 if head & 4 else 1
        size = len(stream) - position
        if head & 2:
            size, position = _leb128(stream, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            found = _sequence(stream[position : position + size])
            if found is None or len(sizes) == _MAX_SEQUENCES:
                return None
            sizes.append(found)
        position += size
    return None


def _leb128(stream: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length and the position behind it."""
    value = 0
    for i in range(8):
        byte = stream[position + i] if position + i < len(stream) else 0
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, position + i + 1
    return len(stream), position + 8


def _sequence(header: bytes | memoryview) -> tuple[int, int] | None:
    bits = _Bits(header)
    bits.read(4)
    if bits.read(1):
        bits.read(5)
    else:
        if bits.read(1):
            # Timing information: a video.
            return None
        has_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if has_delay and bits.read(1):
                bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    return None if bits.overrun else (width, height)


class _Bits:
    """Reads numbers bit by bit, most significant bit first."""

    def __init__(self, content: bytes | memoryview) -> None:
        # Longer than any header that is read here.
        content = content[:128]
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    @property
    def overrun(self) -> bool:
        """Whether more bits were read than exist."""
        return self._left < 0

    def read(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1 if self._left >= 0 else 0
