"""The limits of a clip, all checked before a pixel is decoded, but that of time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from resonnx_server.errors import BadClip, ClipTooCostly, Unavailable
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.runtime.pictures.options import PictureOptions


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """The most that a clip may have.

    Attributes:
        max_bytes: Of its file.
        max_frames: Frames of its file, before sampling; 5 minutes of 30 frames a second by default.
        max_frame_pixels: Pixels of a frame; a little more than 3840 x 2160 by default.
        max_pixels: Pixels of all frames together up to the last one that is read, as each is decoded; 17 minutes of
            640 x 360 pixels, or 34 s of 1920 x 1080, at 30 frames a second by default.
        max_decode_s: Seconds to decode it, on a thread of its own.
    """

    max_bytes: int = 64 << 20
    max_frames: int = 9_000
    max_frame_pixels: int = 1 << 23
    max_pixels: int = 1 << 31
    max_decode_s: float = 10.0

    def check_bytes(self, encoded: bytes, field: str) -> None:
        """Raise BadClip if the file is larger than the limit."""
        if len(encoded) > self.max_bytes:
            raise BadClip(field, f"{len(encoded)} bytes; a clip has at most {self.max_bytes}")

    def check_canvas(self, width: int, height: int, options: PictureOptions, field: str) -> None:
        """Raise BadClip unless a frame's sides and pixels are within the limits of clips and of pictures."""
        if not (1 <= width <= options.max_side and 1 <= height <= options.max_side):
            raise BadClip(field, f"frames of {width}x{height} pixels; a side must be within 1..{options.max_side}")
        most = min(self.max_frame_pixels, options.max_pixels)
        if width * height > most:
            raise BadClip(field, f"frames of {width}x{height} are {width * height} pixels each, more than {most}")

    def check_frames(self, count: int, field: str) -> None:
        """Raise BadClip if a file has more frames than the limit; one more than the limit stands for any number."""
        if count > self.max_frames:
            raise BadClip(field, f"{count} frames or more; a clip has at most {self.max_frames} before sampling")

    def check_pixels(self, width: int, height: int, count: int, field: str) -> None:
        """Raise BadClip if the first `count` frames, which must be decoded, have more pixels than the limit."""
        if (pixels := width * height * count) > self.max_pixels:
            size = f"{count} frames of {width}x{height}"
            raise BadClip(field, f"{size} are {pixels} pixels to decode, more than {self.max_pixels}")


def check_sampled(count: int, sampling: Sampling, max_frames: int, field: str) -> None:
    """Raise BadClip if more frames are left after sampling than the model reads of a clip."""
    if count > max_frames:
        rule = f"after sampling ({sampling.rule})"
        raise BadClip(
            field, f"{count} frames {rule}; the model reads at most {max_frames} of a clip. Send a shorter one"
        )


class TimeLimit:
    """The time to decode one clip, and whether it is still wanted. Thread-safe.

    Args:
        limit_s: In seconds, from `start`.
        field: The request's field, for messages.
        clock: Monotonic seconds.
    """

    def __init__(self, limit_s: float, field: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._field = field
        self._clock = clock
        self._ends = clock() + limit_s
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to count, when a thread begins to decode."""
        self._ends = self._clock() + self._limit_s

    def stop(self) -> None:
        """Let the decoding end soon: nobody waits for it, or the server stops."""
        self._stopped.set()

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 or less where the time is over."""
        return self._ends - self._clock()

    def check(self) -> None:
        """Raise ClipTooCostly if the time is over, and Unavailable if it was stopped."""
        if self._stopped.is_set():
            raise Unavailable("the decoding of the clip was stopped")
        if self.left_s <= 0:
            raise ClipTooCostly(self._field, f"it takes longer than {self._limit_s:g} s to decode. Send a shorter clip")
