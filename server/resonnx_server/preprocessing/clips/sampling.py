"""Chooses the frames of a video that a model reads, by index or time: of a whole video, or one after the other.

A rule is the model's: frames sampled otherwise than in training are another input. The module knows no files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Times are rounded to their file's unit, at coarsest 1 ms, and to a float: a frame that is early by less is on time.
_TOLERANCE_S: Final = 1e-6
_MAX_FRAMES_PER_SECOND: Final = 1e6


class Rule(StrEnum):
    """A rule of sampling; frames are counted from 0."""

    ALL = "all"
    # Frames 0, n, 2n, ...
    EVERY = "every"
    # n frames: of L frames, frame floor((2i+1)*L/(2n)) for i from 0 to n-1; all where L is at most n.
    UNIFORM = "uniform"
    # The first frame, and each that is the first at or after i/frames_per_second seconds from it.
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Sampling:
    """A rule and its number.

    Attributes:
        rule: The rule.
        n: Of EVERY and UNIFORM, from 1.
        frames_per_second: Of TIME, above 0.

    Raises:
        ValueError: The rule's number is not within its range.
    """

    rule: Rule = Rule.ALL
    n: int = 0
    frames_per_second: float = 0.0

    def __post_init__(self) -> None:
        if self.rule in (Rule.EVERY, Rule.UNIFORM) and self.n < 1:
            raise ValueError(f"n: {self.n}; the rule {self.rule} needs at least 1")
        if self.rule is Rule.TIME and not 0 < self.frames_per_second <= _MAX_FRAMES_PER_SECOND:
            least, most = "above 0", f"at most {_MAX_FRAMES_PER_SECOND:.0f}"
            raise ValueError(f"frames_per_second: {self.frames_per_second}; it must be {least} and {most}")

    @property
    def needs_count(self) -> bool:
        """Whether frames can be chosen only once the video's length is known."""
        return self.rule is Rule.UNIFORM

    def indices(self, times_s: Sequence[float]) -> list[int]:
        """Return the indices of a whole video's frames that are read, ascending.

        Args:
            times_s: Each frame's time in seconds, ascending; only the rule TIME looks at more than their number.
        """
        count = len(times_s)
        if self.rule is Rule.UNIFORM and count > self.n:
            return [(2 * i + 1) * count // (2 * self.n) for i in range(self.n)]
        if self.rule is Rule.TIME:
            sampler = Sampler(self)
            return [i for i, time_s in enumerate(times_s) if sampler.takes(time_s)]
        return list(range(0, count, self.n if self.rule is Rule.EVERY else 1))

    def most(self, count: int) -> int:
        """Return how many of `count` frames are read at most."""
        if self.rule is Rule.EVERY:
            return -(-count // self.n)
        return min(count, self.n) if self.rule is Rule.UNIFORM else count


class Sampler:
    """Chooses among frames as they come.

    Args:
        sampling: A rule that does not need the number of frames.

    Raises:
        ValueError: It does.
    """

    def __init__(self, sampling: Sampling) -> None:
        if sampling.needs_count:
            raise ValueError(f"the rule {sampling.rule} chooses among all frames of a video, and not as they come")
        self._sampling = sampling
        self._seen = 0
        self._start_s = 0.0
        # Of the rule TIME: the next frame is the first at or after so many periods.
        self._next = 0

    def takes(self, time_s: float) -> bool:
        """Return whether the next frame is read; `time_s` is its time in seconds, and counts for the rule TIME."""
        index = self._seen
        self._seen += 1
        if self._sampling.rule is Rule.ALL:
            return True
        if self._sampling.rule is Rule.EVERY:
            return index % self._sampling.n == 0
        if index == 0:
            self._start_s = time_s
        period = math.floor((time_s - self._start_s + _TOLERANCE_S) * self._sampling.frames_per_second)
        if period < self._next:
            return False
        self._next = period + 1
        return True
