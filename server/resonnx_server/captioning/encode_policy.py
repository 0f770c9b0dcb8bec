"""When to encode and when to step, if only one of them can run. Pure: costs and counts in, a number of pictures out.

A step costs nearly the same for few rows as for many, so a picture that joins makes every caption cheaper; but during
its encoding all captions pause. The measured latency tables weigh both.
"""

import math
from dataclasses import dataclass
from typing import Final

from resonnx_server.scheduling.latency import LatencyTable

# Longest pause of streamed words for an encoder batch, unless one picture takes longer.
_MAX_PAUSE_NS: Final = 25_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """The work of one captioner.

    Attributes:
        waiting: Pictures that could be encoded now.
        captions: Captions in the decoder, with those that join at the next step.
        rows: Rows that they take.
        mean_steps: Mean steps of a caption so far.
        streaming: A caller reads words as they come.
    """

    waiting: int
    captions: int
    rows: int
    mean_steps: float
    streaming: bool = False


class EncodePolicy:
    """Continuous batching: pictures join between steps, captions leave when they end.

    Args:
        encode_table: Costs of encoder batches by pictures.
        step_table: Costs of decoder steps by rows.
    """

    def __init__(self, encode_table: LatencyTable, step_table: LatencyTable) -> None:
        self._encode, self._step = encode_table, step_table

    def encode_now(self, load: Load) -> int:
        """Return how many pictures at most to encode before the next step; 0 is to step."""
        if not load.waiting:
            return 0
        if not load.captions:
            return load.waiting
        if load.waiting < self.gather(load):
            return 0
        return min(load.waiting, self._most(load.streaming))

    def gather(self, load: Load) -> int:
        """Return how many pictures to collect: the number that minimises the device time of a caption."""
        return min(self._encode.sizes, key=lambda pictures: self._cost_ns(load, pictures))

    def _cost_ns(self, load: Load, pictures: int) -> float:
        """Device time of a caption if `pictures` are always encoded together.

        On average half of `pictures` wait, and the other captions share each step.
        """
        captions = max(1.0, load.waiting + load.captions - pictures / 2)
        rows = min(math.ceil(captions * load.rows / load.captions), self._step.largest)
        stepping = load.mean_steps * self._step.cost_ns(self._step.padded_batch_size(rows)) / captions
        return self._encode.cost_ns(pictures) / pictures + stepping

    def _most(self, streaming: bool) -> int:
        if not streaming:
            return self._encode.largest
        return max(size for size in self._encode.sizes if size == 1 or self._encode.cost_ns(size) <= _MAX_PAUSE_NS)
