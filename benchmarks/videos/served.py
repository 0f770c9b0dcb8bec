"""Clips through a real server: one at a time, many callers, and many beside one caller of very long clips.

    PYTHONPATH=benchmarks python benchmarks/videos/served.py MODELS NAME [--rounds 3] [--seconds 5] [--callers 16]

MODELS is a repository with the video classifier NAME of at least 300 frames a clip. Callers are a closed loop of
clips of 4 to 64 frames, as raw pixels of the model's size; all clients are one process on the server's machine. The
floor is ONNX Runtime alone on clips of these lengths: a thread for each core, frames of many clips in batches of 16,
then the features of each clip.
"""

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import grpc
import numpy as np
from load.server_process import serving
from resonnx_proto.v1 import manifest_pb2, vision_pb2_grpc
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_server.runtime.model_files.manifest import onnx_files, read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.runtime.video.graphs import VideoGraphs

_LEAST, _MOST, _LONG = 4, 64, 300
_BATCH: Final = 16
# Answers of the first moments are not counted.
_WARM_UP_S: Final = 0.5


class Clips:
    """Clips of random pixels as requests, by their number of frames."""

    def __init__(self, model: str, width: int, height: int) -> None:
        self._model = model
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (_MOST, height, width, 3), np.uint8)
        raws = [pb.Image.Raw(rgb=frame.tobytes(), width=width, height=height) for frame in self.pixels]
        self._images = [pb.Image(raw=raw) for raw in raws]

    def request(self, frames: int) -> pb.ClassifyVideoRequest:
        """Return a request of a clip."""
        images = [self._images[i % _MOST] for i in range(frames)]
        return pb.ClassifyVideoRequest(model=self._model, frames=pb.VideoFrames(images=images), top_k=1)


async def _callers(
    address: str, clips: Clips, callers: int, seconds: float, *, long: bool
) -> tuple[float, list[float]]:
    """Return frames a second of the callers, and the ms of each answer; with `long`, one more sends long clips."""
    took: list[float] = []
    frames, begin = 0, time.perf_counter() + _WARM_UP_S
    end = begin + seconds
    requests = {count: clips.request(count) for count in (*range(_LEAST, _MOST + 1), _LONG)}
    async with grpc.aio.insecure_channel(address) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)

        async def call(number: int) -> None:
            nonlocal frames
            rng = np.random.default_rng(number)
            while (start := time.perf_counter()) < end:
                count = int(rng.integers(_LEAST, _MOST + 1))
                await vision.ClassifyVideo(requests[count])
                if start >= begin:
                    took.append((time.perf_counter() - start) * 1e3)
                    frames += count

        async def call_long() -> None:
            while time.perf_counter() < end:
                await vision.ClassifyVideo(requests[_LONG])

        beside = asyncio.create_task(call_long()) if long else None
        await asyncio.gather(*(call(number) for number in range(callers)))
        if beside is not None:
            await beside
    return frames / seconds, took


def _floor(graphs: Callable[[], VideoGraphs], pixels: np.ndarray, seconds: float) -> float:
    """Return frames a second of ONNX Runtime alone."""
    counts = [0] * (os.cpu_count() or 1)
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        own, rng = graphs(), np.random.default_rng(number)
        batch = pixels[:_BATCH]
        left = 0
        features = own.encode(batch)
        while time.perf_counter() < end:
            length = int(rng.integers(_LEAST, _MOST + 1))
            left += length
            while left >= _BATCH:
                features = own.encode(batch)
                left -= _BATCH
            clip = np.resize(features, (1, length, features.shape[1]))
            own.classify(clip, np.array([length], np.int64))
            counts[number] += length

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def main() -> None:
    """Print the medians of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--callers", type=int, default=16)
    given = parser.parse_args()
    version = read_version(max((given.models / given.name).iterdir()))
    width, height = version.manifest.input.width, version.manifest.input.height
    clips, names = Clips(given.name, width, height), onnx_files(version.manifest)

    def graphs() -> VideoGraphs:
        fp32 = Candidate(CPU, manifest_pb2.PRECISION_FP32)
        return VideoGraphs({name: Session(version.files[name], fp32, 1) for name in names}, version.manifest)

    rates: dict[str, list[float]] = {}
    slow: dict[str, list[float]] = {}
    with serving(given.models, "--provider", "cpu") as server:
        for _ in range(given.rounds):
            rates.setdefault("floor", []).append(_floor(graphs, clips.pixels, given.seconds))
            for row, callers, long in (
                ("one at a time", 1, False),
                (f"{given.callers} callers", given.callers, False),
                (f"{given.callers} beside long clips", given.callers, True),
            ):
                rate, took = asyncio.run(_callers(server.grpc, clips, callers, given.seconds, long=long))
                rates.setdefault(row, []).append(rate)
                slow.setdefault(row, []).append(float(np.quantile(took, 0.99)))
    for row, found in rates.items():
        p99 = f", p99 {median(slow[row]):.0f} ms ({[round(each) for each in slow[row]]})" if row in slow else ""
        print(f"{row:24} {median(found):8.0f} frames/s ({[round(each) for each in found]}){p99}")


if __name__ == "__main__":
    main()
