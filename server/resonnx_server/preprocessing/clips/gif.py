"""Reads the blocks of a GIF file (GIF89a): the canvas and the frames' durations, without decoding a pixel.

Its time is bounded by the file's length: about 15 ms for 64 MiB of usual blocks.
"""

from typing import Final

from resonnx_server.preprocessing.clips.animation import CUT_OFF, EMPTY, NO_FRAMES, OUTSIDE, UNREADABLE, Animation

_TRAILER: Final = 0x3B
_EXTENSION: Final = 0x21
_FRAME: Final = 0x2C
_CONTROL: Final = 0xF9
# Data come in blocks of up to 255 bytes; only hostile files have many small ones. 1 << 20 take about 60 ms.
_MAX_BLOCKS: Final = 1 << 20
# Bytes between blocks that belong to none: some writers pad with a few.
_MAX_STRAY: Final = 4096


def read(encoded: bytes, most_frames: int) -> Animation | str:
    """Return what a GIF file's headers announce, or why it cannot be decoded.

    Args:
        encoded: The file.
        most_frames: Reading stops at the first frame beyond.
    """
    try:
        return _Blocks(encoded).animation(most_frames)
    except IndexError:
        return CUT_OFF


class _Blocks:
    """A position in a file. Methods raise IndexError at its end."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._at = 13 + self._table(10)
        self._left = _MAX_BLOCKS

    def animation(self, most_frames: int) -> Animation | str:
        width, height = self._number(6), self._number(8)
        durations: list[int] = []
        duration_ms, stray = 0, _MAX_STRAY
        while len(durations) <= most_frames:
            kind = self._encoded[self._at]
            if kind == _TRAILER:
                break
            if kind == _EXTENSION:
                if self._encoded[self._at + 1] == _CONTROL and self._encoded[self._at + 2] == 4:
                    # In hundredths of a second.
                    duration_ms = 10 * self._number(self._at + 4)
                self._at += 2
                self._skip_blocks()
            elif kind == _FRAME:
                left, top, across, down = (self._number(self._at + i) for i in (1, 3, 5, 7))
                if not (across and down):
                    return EMPTY.format(len(durations))
                if not durations:
                    # As for a picture: the first frame may extend the canvas.
                    width, height = max(width, left + across), max(height, top + down)
                elif left + across > width or top + down > height:
                    return OUTSIDE.format(len(durations))
                durations.append(duration_ms)
                duration_ms = 0
                # Behind the table of colours there is the size of the codes.
                self._at += 10 + self._table(self._at + 9) + 1
                self._skip_blocks()
            else:
                # Like Pillow, search for the next block.
                self._at += 1
                stray -= 1
            if self._left < 0 or stray < 0:
                return UNREADABLE
        return Animation("GIF", width, height, tuple(durations)) if durations else NO_FRAMES

    def _skip_blocks(self) -> None:
        """Move behind the empty block that ends a row of blocks."""
        encoded, at, left = self._encoded, self._at, self._left
        while (size := encoded[at]) and left >= 0:
            at += 1 + size
            left -= 1
        self._at, self._left = at + 1, left

    def _table(self, at: int) -> int:
        """Return the bytes of the table of colours that flags announce."""
        flags = self._encoded[at]
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    def _number(self, at: int) -> int:
        return self._encoded[at] | self._encoded[at + 1] << 8
