"""A bounded pool of threads that decode and resize pictures; the codecs release the GIL."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.runtime import images
from resonnx_server.runtime.images import Pixels

# Weight of a picture's time against what is known.
_DECAY: Final = 0.05


class Decoder:
    """Decodes pictures off the event loop.

    Args:
        threads: Pictures decoded at once, which also bounds the memory of pictures at full size.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._threads = threads
        # Event loop only: pictures that are not decoded yet, and a thread's mean time for one.
        self._pending = 0
        self._mean_ns = 0.0

    def expected_ns(self, pictures: int) -> float:
        """Expected time until so many pictures that came now would be decoded."""
        return self._mean_ns * max(1.0, (self._pending + pictures) / self._threads)

    async def load(self, encoded: bytes, recipe: ImageInput, field: str, *, jpeg_scaling: bool) -> Pixels:
        """Return a picture file as uint8 [H,W,3] of the recipe's size. Raises BadImage, naming `field`."""
        return await self._run(partial(images.load, jpeg_scaling=jpeg_scaling), encoded, recipe, field)

    async def load_all(self, encoded: Sequence[bytes], recipe: ImageInput, field: str, *, jpeg_scaling: bool) -> Pixels:
        """Return picture files as uint8 [N,H,W,3]. Raises BadImage, naming the field and the picture's index."""
        loading = [
            asyncio.ensure_future(self.load(e, recipe, f"{field}[{i}]", jpeg_scaling=jpeg_scaling))
            for i, e in enumerate(encoded)
        ]
        try:
            return np.stack(await asyncio.gather(*loading))
        except BaseException:
            # One is bad, or the caller has gone: nobody waits for the others.
            for picture in loading:
                picture.cancel()
            raise

    async def from_raw(self, rgb: bytes, width: int, height: int, recipe: ImageInput, field: str) -> Pixels:
        """Return raw RGB pixels as uint8 [H,W,3] of the recipe's size. Raises BadImage, naming `field`."""
        if (width, height) == (recipe.width, recipe.height):
            # Nothing to resize in most recipes: cheaper here than a trip to the pool.
            return images.from_raw(rgb, width, height, recipe, field)
        return await self._run(images.from_raw, rgb, width, height, recipe, field)

    async def _run(self, function: Callable[..., Pixels], *arguments: object) -> Pixels:
        self._pending += 1
        try:
            pixels, ns = await asyncio.get_running_loop().run_in_executor(self._pool, _timed, function, *arguments)
        finally:
            self._pending -= 1
        self._mean_ns += (_DECAY if self._mean_ns else 1) * (ns - self._mean_ns)
        return pixels

    def close(self) -> None:
        """Finish the pictures under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _timed(function: Callable[..., Pixels], *arguments: object) -> tuple[Pixels, int]:
    start = time.monotonic_ns()
    return function(*arguments), time.monotonic_ns() - start
