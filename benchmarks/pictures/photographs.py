"""Photograph-like JPEG files of 640x480 and at most 40 kB, and the time to decode one."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

_MOST_BYTES = 40_000


def write_pictures(folder: Path, count: int = 16) -> list[Path]:
    """Write so many files."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        file = folder / f"{i:02}.jpg"
        picture(rng, 640, 480).save(file, quality=65)
        assert file.stat().st_size <= _MOST_BYTES, file.stat().st_size
        files.append(file)
    return files


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw coarse noise, smoothed, so that it compresses like a photograph."""
    noise = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8))
    coarse = noise.resize((width, height), Image.Resampling.BICUBIC)
    fine = np.asarray(coarse).astype(np.int16) + rng.integers(-4, 5, (height, width, 1), np.int16)
    return Image.fromarray(fine.clip(0, 255).astype(np.uint8))


def decode_seconds(files: list[Path], recipe: ImageInput) -> float:
    """Return the seconds of one core to decode and resize a file by the fastest decoder that is exact."""
    contents = [file.read_bytes() for file in files]

    def by_pillow(content: bytes) -> object:
        return images.fit(Image.open(io.BytesIO(content)).convert("RGB"), recipe)

    def by_server(content: bytes) -> object:
        return images.load(content, PictureOptions(recipe))

    return min(_seconds_each(decode, contents) for decode in (by_server, by_pillow))


def _seconds_each(decode: Callable[[bytes], object], contents: list[bytes]) -> float:
    start = time.perf_counter()
    for _ in range(2):
        for content in contents:
            decode(content)
    return (time.perf_counter() - start) / (2 * len(contents))
