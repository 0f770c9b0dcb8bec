"""How clips of different lengths should share runs of a recurrent network: padded together, or frame by frame.

    PYTHONPATH=benchmarks python benchmarks/videos/clip_heads.py [--clips 400]

So many callers have a clip of 4 to 64 frames waiting at any time: each sends its next one when the last is answered.
Sessions alone, on one thread, without a server; times are processor time, as one thread does all. They depend on the
networks' sizes, not on their weights, which are random.

- `whole`: clips in the order of arrival, padded to the longest
- `bucket R`: the first clip, and further ones of its bucket of lengths, in which the longest is R times the shortest
- `dense`: the first clip, and so many of the nearest lengths that most frames are read in a second
- `step`: step.onnx on all clips that are under way; clips join before any step, and leave after their last frame
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from resonnx_export.graphs.sequence import sequence_graph, step_graph
from resonnx_export.networks.heads import HeadLayer
from resonnx_export.networks.sequence import SequenceConfig
from resonnx_export.networks.video import RecurrentVideo, VideoConfig
from resonnx_export.proof.parity import open_session
from resonnx_server.repository.reopening import run_zeros
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.measurement import BATCH_SIZES

CALLERS: Final = (1, 4, 16, 64)
_LEAST, _MOST = 4, 64
_LARGEST: Final = 32

# The waiting clips, oldest first, as lengths -> the indices of those that run now.
Choose = Callable[[Sequence[int]], list[int]]


def _whole(waiting: Sequence[int]) -> list[int]:
    return list(range(min(len(waiting), _LARGEST)))


def _bucket(ratio: float, waiting: Sequence[int]) -> list[int]:
    first = _number(waiting[0], ratio)
    return [i for i, length in enumerate(waiting) if _number(length, ratio) == first][:_LARGEST]


def _number(length: int, ratio: float) -> int:
    return math.ceil(math.log(length / _MOST, ratio) - 1e-9)


def _dense(waiting: Sequence[int]) -> list[int]:
    """Return the first clip with those of the nearest lengths, so many that most frames are read in a second."""
    first = waiting[0]
    near = sorted(range(len(waiting)), key=lambda i: (abs(waiting[i] - first), i))[:_LARGEST]
    rates, frames, longest = [], 0, 0
    for count, i in enumerate(near, 1):
        frames, longest = frames + waiting[i], max(longest, waiting[i])
        # As measured: a row takes a twelfth of what a run takes for any.
        rates.append(frames / (longest * (1 + _size(count) / 12)))
    return near[: int(np.argmax(rates)) + 1]


POLICIES: Final[dict[str, Choose]] = {
    "whole": _whole,
    "bucket 1.25": partial(_bucket, 1.25),
    "bucket 2": partial(_bucket, 2.0),
    "bucket 4": partial(_bucket, 4.0),
    "dense": _dense,
}


def _network(hidden: tuple[int, ...], *, size: int) -> RecurrentVideo:
    torch.manual_seed(1)
    head = (HeadLayer(hidden[-1], 16),)
    return RecurrentVideo(VideoConfig(None, SequenceConfig(size, "lstm", hidden, head), given_size=size)).eval()


def _size(rows: int) -> int:
    return next(size for size in BATCH_SIZES if size >= rows)


class _Clips:
    """Clips of callers that send the next one when the last is answered."""

    def __init__(self, callers: int, size: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._frames = self._rng.standard_normal((_MOST, size), np.float32)
        self.waiting: deque[tuple[int, float]] = deque()
        self.times: list[float] = []
        self.frames = 0
        for _ in range(callers):
            self.send()

    def send(self) -> None:
        self.waiting.append((int(self._rng.integers(_LEAST, _MOST + 1)), time.process_time()))

    def of(self, length: int) -> np.ndarray:
        return self._frames[:length]

    def answer(self, clips: Sequence[tuple[int, float]]) -> None:
        now = time.process_time()
        for length, since in clips:
            self.times.append(now - since)
            self.frames += length
            self.send()


def _padded(session: Session, choose: Choose, clips: _Clips) -> Iterator[None]:
    size = session.inputs[0].shape[2]
    assert isinstance(size, int)
    while True:
        chosen = choose([length for length, _ in clips.waiting])
        batch = [clips.waiting[i] for i in chosen]
        for i in sorted(chosen, reverse=True):
            del clips.waiting[i]
        features = np.zeros((_size(len(batch)), max(length for length, _ in batch), size), np.float32)
        lengths = np.ones(len(features), np.int64)
        for row, (length, _) in enumerate(batch):
            features[row, :length], lengths[row] = clips.of(length), length
        session.run({"features": features, "lengths": lengths})
        clips.answer(batch)
        yield


def _stepped(session: Session, clips: _Clips) -> Iterator[None]:
    names = [spec.name for spec in session.inputs[1:]]
    begun = run_zeros(session, _LARGEST)
    states = {name: np.zeros_like(begun[f"next_{name}"]) for name in names}
    size = session.inputs[0].shape[1]
    assert isinstance(size, int)
    features = np.zeros((_LARGEST, size), np.float32)
    rows: list[tuple[int, float]] = []
    read: list[int] = []
    while True:
        while clips.waiting and len(rows) < _LARGEST:
            for state in states.values():
                state[len(rows)] = 0
            rows.append(clips.waiting.popleft())
            read.append(0)
        count = _size(len(rows))
        for row, position in enumerate(read):
            features[row] = clips.of(_MOST)[position]
        outputs = session.run({"features": features[:count], **{name: states[name][:count] for name in names}})
        for name in names:
            states[name][:count] = outputs[f"next_{name}"]
        read = [position + 1 for position in read]
        for row in reversed([row for row, (length, _) in enumerate(rows) if read[row] == length]):
            clips.answer([rows[row]])
            last, at = rows.pop(), read.pop()
            if row < len(rows):
                rows[row], read[row] = last, at
                for state in states.values():
                    state[row] = state[len(rows)]
        yield


def _run(turns: Iterator[None], clips: _Clips, count: int) -> str:
    while len(clips.times) < count // 8:
        next(turns)
    clips.times.clear()
    clips.frames, start = 0, time.process_time()
    while len(clips.times) < count:
        next(turns)
    rate = len(clips.times) / (time.process_time() - start)
    middle, slow = np.quantile(clips.times, (0.5, 0.99)) * 1e3
    return f"{rate:7.0f} clips/s, p50 {middle:6.1f}, p99 {slow:6.1f} ms"


def main() -> None:
    """Print clips a second, and the times of a clip from its arrival to its answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    count = parser.parse_args().clips
    for size, hidden in ((128, (128,)), (512, (256,)), (512, (512, 512))):
        network = _network(hidden, size=size)
        whole, step = open_session(sequence_graph(network)), open_session(step_graph(network)[0])
        print(f"LSTM {' + '.join(map(str, hidden))} over {size} features")
        for callers in CALLERS:
            for name, choose in POLICIES.items():
                clips = _Clips(callers, size, callers)
                print(f"  {callers:3} callers, {name:11} {_run(_padded(whole, choose, clips), clips, count)}")
            clips = _Clips(callers, size, callers)
            print(f"  {callers:3} callers, {'step':11} {_run(_stepped(step, clips), clips, count)}", flush=True)


if __name__ == "__main__":
    main()
