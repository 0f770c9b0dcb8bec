"""Clips of different lengths, with their frames one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.session import Array

Lengths = npt.NDArray[np.int64]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clips:
    """N clips.

    Attributes:
        frames: Of all clips in order: pictures uint8 [F,H,W,3], or features float32 [F,D].
        lengths: Frames of each clip, 1 or more, int64 [N]; their sum is F.
    """

    frames: Array
    lengths: Lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice) -> "Clips":
        """Return some of the clips, which follow one another."""
        ends = np.cumsum(self.lengths)
        chosen = range(*rows.indices(len(self)))
        if not chosen:
            return Clips(self.frames[:0], self.lengths[:0])
        start = int(ends[chosen[0]] - self.lengths[chosen[0]])
        return Clips(self.frames[start : int(ends[chosen[-1]])], self.lengths[rows])

    def __iter__(self) -> Iterator[Array]:
        """Yield each clip's frames."""
        return iter(np.split(self.frames, np.cumsum(self.lengths)[:-1]))


def joined(clips: Sequence[Array]) -> Clips:
    """Return clips, each [T,...] with a T of its own."""
    return Clips(np.concatenate(clips), np.array([len(clip) for clip in clips], np.int64))


def padded(features: Float, lengths: Lengths) -> Float:
    """Return the features [F,D] of clips as [N,T,D], with zeros after the shorter ones."""
    found = np.zeros((len(lengths), int(lengths.max()), features.shape[1]), np.float32)
    for row, clip in enumerate(np.split(features, np.cumsum(lengths)[:-1])):
        found[row, : len(clip)] = clip
    return found
