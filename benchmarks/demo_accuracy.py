"""Accuracy of the demo models on held-out handwriting, through the gRPC server.

    python benchmarks/demo_accuracy.py [--repository models] [--scenes 1000] [--seed 11]

Digits: the 20 % of scikit-learn's digits that nothing trains on or selects by, all of them. Scenes: fresh pictures
composed of those digits only; a caption counts if every word is right. Exit status 1 below 99 % and 92 %.
"""

import argparse
import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import numpy as np
from load.server_process import serving
from PIL import Image
from resonnx import AsyncClient
from resonnx_export.demo import samples

_LEAST = {"digits": 0.99, "scenes": 0.92, "scenes, beam 3": 0.92}
_AT_ONCE = 32


async def _share_right(
    pictures: Iterable[tuple[np.ndarray, str]], ask: Callable[[bytes], Awaitable[str]]
) -> tuple[int, int]:
    """Ask about every picture, as a PNG file; return how many answers are right, of how many."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def is_right(picture: np.ndarray, truth: str) -> bool:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        async with room:
            return await ask(file.getvalue()) == truth

    right = await asyncio.gather(*(is_right(picture, truth) for picture, truth in pictures))
    return sum(right), len(right)


async def _measure(server: str, scene_count: int, seed: int) -> bool:
    async with AsyncClient(server, timeout_s=120) as client:

        async def classify(file: bytes) -> str:
            return (await client.classify(file, "digits", top_k=1)).predictions[0].label

        async def caption(file: bytes) -> str:
            return (await client.caption(file, "scenes", beam_width=1)).captions[0].text

        async def search(file: bytes) -> str:
            return (await client.caption(file, "scenes", beam_width=3)).captions[0].text

        digits = list(samples.digits())
        scenes = [(scene.image, scene.caption) for scene in samples.scenes(seed, scene_count)]
        results = {
            "digits": await _share_right(digits, classify),
            "scenes": await _share_right(scenes, caption),
            "scenes, beam 3": await _share_right(scenes, search),
        }
    for model, (right, of) in results.items():
        print(f"{model}: {right} of {of} right, {100 * right / of:.2f} % (at least {100 * _LEAST[model]:.0f} %)")
    return all(right / of >= _LEAST[model] for model, (right, of) in results.items())


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    with serving(arguments.repository) as server:
        return 0 if asyncio.run(_measure(server.grpc, arguments.scenes, arguments.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
