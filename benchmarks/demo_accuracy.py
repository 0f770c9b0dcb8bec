"""Accuracy of the demo models on held-out handwriting, through the gRPC server.

    python benchmarks/demo_accuracy.py [--repository models] [--scenes 1000] [--clips 1000] [--seed 11]

Digits: the 20 % of scikit-learn's digits that nothing trains on or selects by, all of them. Scenes: fresh pictures
composed of those digits only; a caption counts if every word is right. Gestures: fresh clips of those digits, as arrays
of frames. Exit status 1 below 99 %, 92 % and 97 %.
"""

import argparse
import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from load.server_process import serving
from PIL import Image
from resonnx import AsyncClient
from resonnx_export.demo import samples

_LEAST = {"digits": 0.99, "scenes": 0.92, "scenes, beam 3": 0.92, "gestures": 0.97}
_AT_ONCE = 32

T = TypeVar("T")


async def _share_right(asked: Iterable[tuple[T, str]], ask: Callable[[T], Awaitable[str]]) -> tuple[int, int]:
    """Ask about every picture or clip; return how many answers are right, of how many."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def is_right(given: T, truth: str) -> bool:
        async with room:
            return await ask(given) == truth

    right = await asyncio.gather(*(is_right(given, truth) for given, truth in asked))
    return sum(right), len(right)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


async def _measure(server: str, scene_count: int, clip_count: int, seed: int) -> bool:
    async with AsyncClient(server, timeout_s=120) as client:

        async def classify(file: bytes) -> str:
            return (await client.classify(file, "digits", top_k=1)).predictions[0].label

        async def caption(file: bytes) -> str:
            return (await client.caption(file, "scenes", beam_width=1)).captions[0].text

        async def search(file: bytes) -> str:
            return (await client.caption(file, "scenes", beam_width=3)).captions[0].text

        async def motion(frames: np.ndarray) -> str:
            return (await client.classify_video(frames, "gestures", top_k=1)).predictions[0].label

        digits = [(_png(picture), label) for picture, label in samples.digits()]
        scenes = [(_png(scene.image), scene.caption) for scene in samples.scenes(seed, scene_count)]
        clips = [(clip.frames, clip.label) for clip in samples.clips(seed, clip_count)]
        results = {
            "digits": await _share_right(digits, classify),
            "scenes": await _share_right(scenes, caption),
            "scenes, beam 3": await _share_right(scenes, search),
            "gestures": await _share_right(clips, motion),
        }
    for model, (right, of) in results.items():
        print(f"{model}: {right} of {of} right, {100 * right / of:.2f} % (at least {100 * _LEAST[model]:.0f} %)")
    return all(right / of >= _LEAST[model] for model, (right, of) in results.items())


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    with serving(arguments.repository) as server:
        return 0 if asyncio.run(_measure(server.grpc, arguments.scenes, arguments.clips, arguments.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
