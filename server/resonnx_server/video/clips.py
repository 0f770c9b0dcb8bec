"""Batches clips of features through the recurrent network: clips of similar lengths, padded to the longest.

The queue, its sharing between callers and its deadlines are those of tensors/engine.py, with a clip as a row. A clip's
cost is that of its length: the latency table is of clips of one length, and runs take their share of it by frames.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS
from resonnx_server.scheduling.batcher import Batch, Batcher
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.queue import Entry, QueueReservation
from resonnx_server.scheduling.session_pool import TensorInstanceGroup, Tensors, TensorSessionPool
from resonnx_server.tensors.engine import TensorEngine
from resonnx_server.tensors.jobs import JobContext, TensorJob, TensorTask

# Frames of a batch, with padding, if it has more than one clip.
MOST_FRAMES: Final = 2048
# Weight of a new clip in the mean of weights.
_DECAY: Final = 0.05


class _ClipQueue(Batcher[TensorTask]):
    """Waiting clips; entries of one shape are those of one bucket of lengths."""

    def _most_rows(self, first: Entry[TensorTask]) -> int:
        return max(1, min(self.table.largest, MOST_FRAMES // _bucket(_length(first))))


class _ClipJob(TensorJob):
    """One batch of clips."""

    def __init__(self, batch: Batch[TensorTask], pool: TensorSessionPool, context: JobContext) -> None:
        super().__init__(batch, pool, context)
        self.cost_ns *= self._share_of_table(self.entries)

    def limit_ns(self) -> int:
        return int(super().limit_ns() * max(1.0, self._share_of_table(self.entries)))

    def _share_of_table(self, entries: list[Entry[TensorTask]]) -> float:
        # All of them run at the length of the longest, which has the greatest weight.
        return max(entry.weight for entry in entries)

    def _assemble(self, entries: list[Entry[TensorTask]], size: int) -> tuple[Tensors, list[Any]]:
        clips = [entry.payload.inputs[FEATURES] for entry in entries]
        if len(clips) == size == 1:
            return entries[0].payload.inputs, []
        # Rows that only fill the batch up are clips of one frame of zeros.
        lengths = np.ones(size, np.int64)
        lengths[: len(clips)] = [clip.shape[1] for clip in clips]
        features = np.zeros((size, int(lengths.max()), clips[0].shape[2]), np.float32)
        for row, clip in enumerate(clips):
            features[row, : clip.shape[1]] = clip[0]
        return {FEATURES: features, LENGTHS: lengths}, []


class ClipEngine(TensorEngine):
    """The recurrent network of a video classifier: features [1,T,D] and lengths [1] of a clip -> logits [1,K].

    Args:
        instance_group: Sessions of sequence.onnx.
        device: Where they run.
        stats: The counters of its batches.
        table_frames: Frames of the clips that the latencies were measured with.
        feature_size: D.
        max_frames: The longest clip.
        settings: Further arguments of TensorEngine.
    """

    _queue_type = _ClipQueue
    _job_type = _ClipJob

    def __init__(
        self,
        instance_group: TensorInstanceGroup,
        device: Device,
        stats: ModelStats,
        *,
        table_frames: int,
        feature_size: int,
        max_frames: int,
        **settings: Any,
    ) -> None:
        self._table_frames = table_frames
        # Features, and about as much for what the network makes of them, in the largest batch.
        self._largest_bytes = 2 * 4 * feature_size * max(MOST_FRAMES, max_frames)
        # Mean weight of a clip that waits, for predictions: clips of many lengths share the queue.
        self._mean_weight = 1.0
        super().__init__(instance_group, device, stats, finite=True, **settings)

    @property
    def batch_bytes(self) -> int:
        return self._largest_bytes * self.instance_group.max_concurrent_batches

    def clips_ns(self, lengths: Sequence[int]) -> float:
        """Return the expected time of clips on an idle device; with the device's lock held."""
        return self.own_ns(len(lengths)) * sum(map(self._weight, lengths)) / len(lengths)

    def ahead_ns(self, priority: int, caller: str, rows: int) -> float:
        """Return the expected time of what precedes a caller's new clips; with the device's lock held."""
        return super().ahead_ns(priority, caller, rows) * self._mean_weight

    def _weight(self, length: int) -> float:
        return length / self._table_frames

    def _entry(self, work: Tensors, reservation: QueueReservation) -> Entry[TensorTask]:
        entry = super()._entry(work, reservation)
        length = _length(entry)
        entry.shape, entry.weight = _bucket(length), self._weight(length)
        self._mean_weight += _DECAY * (entry.weight - self._mean_weight)
        return entry


def _bucket(length: int) -> int:
    """Return the greatest length of the bucket that a clip of this length, 1 or more, belongs to: a power of two."""
    return 1 << (length - 1).bit_length()


def _length(entry: Entry[TensorTask]) -> int:
    """Return the frames of a clip."""
    frames: int = entry.payload.inputs[FEATURES].shape[1]
    return frames
