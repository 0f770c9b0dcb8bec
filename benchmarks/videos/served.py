"""Clips through a real server: one at a time, many callers, beside pictures, and beside one caller of long clips.

    PYTHONPATH=benchmarks python benchmarks/videos/served.py MODELS NAME [--rounds 3] [--seconds 5] [--callers 16]

MODELS is a repository with the video classifier NAME of at least 300 frames a clip. Callers are a closed loop of
clips of 4 to 64 frames, as raw pixels of the model's size; all clients are one process on the server's machine. The
floor is ONNX Runtime alone on clips of these lengths: a thread for each core, frames of many clips in batches of 16,
then the features of each clip. If MODELS has the demonstration's `digits` and `scenes`, the last rows are beside a
caller of each.
"""

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
_PICTURES: Final = ((pb.ClassifyRequest, "digits"), (pb.CaptionRequest, "scenes"))
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

    def picture(self) -> pb.Image:
        """Return a frame."""
        return self._images[0]

    def request(self, frames: int) -> pb.ClassifyVideoRequest:
        """Return a request of a clip."""
        images = [self._images[i % _MOST] for i in range(frames)]
        return pb.ClassifyVideoRequest(model=self._model, frames=pb.VideoFrames(images=images), top_k=1)


@dataclass
class Load:
    """The load of a measurement: callers of clips, of pictures beside them, and of long clips.

    Attributes:
        callers: Closed loops of clips.
        pictures: Whether there is a caller of each model of pictures.
        long: Whether there is a caller of long clips.
    """

    callers: int
    pictures: bool = False
    long: bool = False


async def _measured(address: str, clips: Clips, load: Load, seconds: float) -> tuple[float, dict[str, list[float]]]:
    """Return clips' frames a second, and the ms of each answer: to clips, digits and scenes."""
    took: dict[str, list[float]] = {}
    frames, begin = 0, time.perf_counter() + _WARM_UP_S
    end = begin + seconds
    requests = {count: clips.request(count) for count in (*range(_LEAST, _MOST + 1), _LONG)}

    async def timed(what: str, call: Awaitable[object]) -> bool:
        """Await an answer, and return whether it counts."""
        start = time.perf_counter()
        await call
        if start >= begin:
            took.setdefault(what, []).append((time.perf_counter() - start) * 1e3)
        return start >= begin

    async with grpc.aio.insecure_channel(address) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)

        async def call(number: int) -> None:
            nonlocal frames
            rng = np.random.default_rng(number)
            while time.perf_counter() < end:
                count = int(rng.integers(_LEAST, _MOST + 1))
                if await timed("clips", vision.ClassifyVideo(requests[count])):
                    frames += count

        async def ask(what: str, send: Callable[[], Awaitable[object]]) -> None:
            while time.perf_counter() < end:
                await timed(what, send())

        loops = [call(number) for number in range(load.callers)]
        if load.pictures:
            digit, scene = (kind(model=name, image=clips.picture()) for kind, name in _PICTURES)
            loops += [ask("digits", lambda: vision.Classify(digit)), ask("scenes", lambda: vision.Caption(scene))]
        if load.long:
            loops.append(ask("long clips", lambda: vision.ClassifyVideo(requests[_LONG])))
        await asyncio.gather(*loops)
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

    loads = {
        "one at a time": Load(1),
        f"{given.callers} callers": Load(given.callers),
        f"{given.callers} and long clips": Load(given.callers, long=True),
    }
    if all((given.models / name).is_dir() for _, name in _PICTURES):
        loads |= {
            "one at a time, pictures": Load(1, pictures=True),
            f"{given.callers}, pictures": Load(given.callers, pictures=True),
            f"{given.callers}, pictures, long": Load(given.callers, pictures=True, long=True),
        }
    rates: dict[str, list[float]] = {}
    slow: dict[str, dict[str, list[float]]] = {}
    with serving(given.models, "--provider", "cpu") as server:
        for _ in range(given.rounds):
            rates.setdefault("floor", []).append(_floor(graphs, clips.pixels, given.seconds))
            for row, load in loads.items():
                rate, took = asyncio.run(_measured(server.grpc, clips, load, given.seconds))
                rates.setdefault(row, []).append(rate)
                for what, times in took.items():
                    slow.setdefault(row, {}).setdefault(what, []).append(float(np.quantile(times, 0.99)))
    for row, found in rates.items():
        print(f"{row:26} {median(found):8.0f} frames/s ({[round(each) for each in found]})")
        for what, p99 in slow.get(row, {}).items():
            print(f"{'':28} p99 of {what}: {median(p99):.0f} ms ({[round(each) for each in p99]})")


if __name__ == "__main__":
    main()
