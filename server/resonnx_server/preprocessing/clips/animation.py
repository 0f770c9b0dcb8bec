"""Animated pictures: what their headers tell, read by our own code before a decoder sees the file."""

from itertools import accumulate
from typing import Final, NamedTuple

UNREADABLE: Final = "its header is damaged or incomplete"
CUT_OFF: Final = "it ends before its last frame does"
OUTSIDE: Final = "frame {} reaches outside of its canvas"
EMPTY: Final = "frame {} has no pixels"
NO_FRAMES: Final = "it has no frames"
# Browsers show a frame for so long whose duration is at most 10 ms, as writers put 0 for "as usual".
_LEAST_MS: Final = 10
_USUAL_MS: Final = 100


class Animation(NamedTuple):
    """An animated picture, as its headers announce it.

    Attributes:
        format: "GIF" or "WebP".
        width: Of the canvas, in pixels.
        height: Of the canvas, in pixels.
        durations_ms: Of each frame, as stored; one more than was asked for at most.
        exif: The EXIF block; empty without one.
    """

    format: str
    width: int
    height: int
    durations_ms: tuple[int, ...]
    exif: bytes = b""

    @property
    def times_s(self) -> list[float]:
        """When each frame begins, from the first one, in seconds; as browsers show it, and once if it repeats."""
        shown = (each if each > _LEAST_MS else _USUAL_MS for each in self.durations_ms[:-1])
        return [time_ms / 1000 for time_ms in accumulate(shown, initial=0)]
