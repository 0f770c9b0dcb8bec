"""When to encode and when to step, as both use a captioner's whole device. Pure: costs and counts in, a count out.

A step costs nearly the same for few rows as for many, so a picture that joins makes every caption cheaper; but while
it is encoded, all captions under way stand still. What both are worth comes from the measured tables.
"""

import math
import sys
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from resonnx_server.scheduling.latency import LatencyTable

CaptionPolicy = Literal["continuous", "one", "rigid"]

# What a rigid batch takes at most.
_RIGID_BATCH: Final = 16
# Words that are being streamed stand still no longer than this for an encoder batch (or one picture, if that is more).
_MAX_STALL_NS: Final = 25_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do.

    Attributes:
        waiting: Pictures that could be encoded now.
        captions: Captions being decoded, with those that join at the next step.
        rows: Rows that they take.
        mean_steps: Steps of a caption, as seen so far.
        streaming: A caller reads words as they come.
    """

    waiting: int
    captions: int
    rows: int
    mean_steps: float
    streaming: bool = False


class EncodePolicy(Protocol):
    """A policy.

    Attributes:
        holds_finished: Captions that have ended keep their rows until all have.
        most_captions: Captions that are decoded at once, where rows do not limit them.
    """

    holds_finished: bool
    most_captions: int

    def encode_now(self, load: Load) -> int:
        """Return how many pictures at most to encode before the next step; 0 is to step."""


class OneAtATime:
    """One picture from start to end, then the next."""

    holds_finished = False
    most_captions = 1

    def encode_now(self, load: Load) -> int:
        """See EncodePolicy."""
        return 0 if load.captions else min(load.waiting, 1)


class Rigid:
    """A batch of what waits, decoded until the last of it has ended; nobody joins, nobody leaves."""

    holds_finished = True
    most_captions = _RIGID_BATCH

    def encode_now(self, load: Load) -> int:
        """See EncodePolicy."""
        return 0 if load.captions else min(load.waiting, _RIGID_BATCH)


class Continuous:
    """Pictures join between steps, captions leave when they end.

    Args:
        encode_table: What encoding so many pictures costs.
        step_table: What a step of so many rows costs.
    """

    holds_finished = False
    most_captions = sys.maxsize

    def __init__(self, encode_table: LatencyTable, step_table: LatencyTable) -> None:
        self._encode, self._step = encode_table, step_table

    def encode_now(self, load: Load) -> int:
        """See EncodePolicy."""
        if not load.waiting:
            return 0
        if not load.captions:
            return load.waiting
        if load.waiting < self.gather(load):
            return 0
        return min(load.waiting, self._most(load.streaming))

    def gather(self, load: Load) -> int:
        """Return how many pictures to let gather: the number at which a caption costs the device least."""
        return min(self._encode.sizes, key=lambda pictures: self._cost_ns(load, pictures))

    def _cost_ns(self, load: Load, pictures: int) -> float:
        """Device time of a caption if pictures are always encoded so many together.

        Of all captions that are here, half of `pictures` wait on average, and the rest shares each step.
        """
        captions = max(1.0, load.waiting + load.captions - pictures / 2)
        rows = min(math.ceil(captions * load.rows / load.captions), self._step.largest)
        stepping = load.mean_steps * self._step.cost_ns(self._step.padded_batch_size(rows)) / captions
        return self._encode.cost_ns(pictures) / pictures + stepping

    def _most(self, streaming: bool) -> int:
        if not streaming:
            return self._encode.largest
        return max(size for size in self._encode.sizes if size == 1 or self._encode.cost_ns(size) <= _MAX_STALL_NS)


def pacing(policy: CaptionPolicy, encode_table: LatencyTable, step_table: LatencyTable) -> EncodePolicy:
    """Return the policy of a model's settings."""
    if policy == "one":
        return OneAtATime()
    return Rigid() if policy == "rigid" else Continuous(encode_table, step_table)
