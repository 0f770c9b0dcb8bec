"""Check pictures: the model's own sample pictures where there are any, and synthetic ones of many kinds."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels, fit

from resonnx_export.pictures.examples import smooth

Kind = Callable[[np.random.Generator, int, int], Pixels]


def check_pictures(recipe: pb.ImageInput, count: int, seed: int, samples: Sequence[Image.Image] = ()) -> Pixels:
    """Make pictures to compare predictions on: every second one a sample if there are any, the rest synthetic.

    Returns:
        uint8 [count, recipe.height, recipe.width, 3]; same arguments, same pictures.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(len(_KINDS))
    pictures = []
    for i in range(count):
        if samples and i in sample_rows(count):
            pictures.append(fit(samples[(seed + i // 2) % len(samples)], recipe))
        else:
            pictures.append(_KINDS[kinds[i % len(_KINDS)]](rng, recipe.height, recipe.width))
    return np.stack(pictures)


def sample_rows(count: int) -> range:
    """Return the rows of the samples among `count` check pictures."""
    return range(0, count, 2)


def _noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _plain(value: int) -> Kind:
    return lambda rng, height, width: np.full((height, width, 3), value, np.uint8)


def _one_bright_pixel(rng: np.random.Generator, height: int, width: int) -> Pixels:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[rng.integers(height), rng.integers(width)] = 255
    return picture


def _checkerboard(rng: np.random.Generator, height: int, width: int) -> Pixels:
    board = (np.add.outer(np.arange(height), np.arange(width)) % 2 * 255).astype(np.uint8)
    return np.repeat(board[:, :, None], 3, axis=2)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Pixels:
    phase = np.linspace(0, rng.uniform(10, 60), height)[:, None, None] + rng.uniform(0, 6, 3)
    return np.broadcast_to(127.5 + 127.5 * np.sin(phase), (height, width, 3)).astype(np.uint8)


_KINDS: Final = (smooth, _noise, _plain(0), smooth, _plain(255), _one_bright_pixel, _checkerboard, _stripes)
