"""Decodes and resizes pictures on a few threads, the most urgent first; the codecs release the GIL."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.engine.admission import Decoding
from resonnx_server.engine.batcher import PRIORITY_LEVELS
from resonnx_server.intake.decode_cost import DecodeCost
from resonnx_server.intake.threads import Threads
from resonnx_server.runtime import images
from resonnx_server.runtime.headers import Header, header
from resonnx_server.runtime.images import Pixels

# Pictures of one request that wait or are decoded, for each thread: enough that none is idle, and no more, so that
# others of the same priority have their turn in between.
_AT_ONCE: Final = 2
_RAW: Final = "raw"


class Decoder:
    """Decodes pictures off the event loop, in the order of their requests' priorities.

    Args:
        threads: Pictures decoded at once, which also bounds the memory of pictures at full size.
    """

    def __init__(self, threads: int) -> None:
        self._threads = Threads(threads, "decode")
        self._count = threads
        # Event loop only: what the pictures that wait or are decoded should take, for each priority.
        self._ahead_ns = [0] * PRIORITY_LEVELS
        self._cost = DecodeCost()

    def expected(self, encoded: Sequence[bytes], priority: int) -> Decoding:
        """Return how long picture files of a request that came now should take to be decoded; nothing for none."""
        if not encoded:
            return Decoding(0.0, 0.0)
        own = [self._cost.expected_ns(header(file)) for file in encoded]
        alone, ahead = sum(own) / self._count, sum(self._ahead_ns[:priority]) / self._count
        return Decoding(max(max(own), alone + ahead), max(max(own), alone))

    async def load(
        self, encoded: bytes, recipe: ImageInput, field: str, priority: int, *, jpeg_scaling: bool
    ) -> Pixels:
        """Return a picture file as uint8 [H,W,3] of the recipe's size. Raises BadImage, naming `field`."""
        work = partial(images.load, encoded, recipe, field, jpeg_scaling=jpeg_scaling)
        return await self._run(work, header(encoded), priority)

    async def load_all(
        self, encoded: Sequence[bytes], recipe: ImageInput, field: str, priority: int, *, jpeg_scaling: bool
    ) -> Pixels:
        """Return picture files as uint8 [N,H,W,3]. Raises BadImage, naming the field and the picture's index."""
        pixels = np.empty((len(encoded), recipe.height, recipe.width, 3), np.uint8)
        left = iter(enumerate(encoded))

        async def load_some() -> None:
            for i, file in left:
                pixels[i] = await self.load(file, recipe, f"{field}[{i}]", priority, jpeg_scaling=jpeg_scaling)

        loading = [asyncio.ensure_future(load_some()) for _ in range(min(len(encoded), _AT_ONCE * self._count))]
        try:
            await asyncio.gather(*loading)
        finally:
            # One is bad, or the caller has gone: nobody waits for the others. None is kept here, as an error holds this
            # frame, and its task the error: the pictures would live until garbage is collected.
            while loading:
                loading.pop().cancel()
        return pixels

    async def from_raw(
        self, rgb: bytes, width: int, height: int, recipe: ImageInput, field: str, priority: int
    ) -> Pixels:
        """Return raw RGB pixels as uint8 [H,W,3] of the recipe's size. Raises BadImage, naming `field`."""
        if (width, height) == (recipe.width, recipe.height):
            # Nothing to resize in most recipes: cheaper here than a trip to a thread.
            return images.from_raw(rgb, width, height, recipe, field)
        work = partial(images.from_raw, rgb, width, height, recipe, field)
        return await self._run(work, Header(_RAW, width * height), priority)

    async def _run(self, work: Callable[[], Pixels], told: Header, priority: int) -> Pixels:
        expected = int(self._cost.expected_ns(told))
        self._ahead_ns[priority - 1] += expected
        try:
            pixels, ns = await self._threads.run(partial(_timed, work), priority)
        finally:
            self._ahead_ns[priority - 1] -= expected
        self._cost.learn(told, ns)
        return pixels

    async def close(self, patience_s: float) -> bool:
        """Give up pictures that wait. Returns False if one that is being decoded has not ended by then."""
        return await self._threads.close(patience_s)


def _timed(work: Callable[[], Pixels]) -> tuple[Pixels, int]:
    start = time.monotonic_ns()
    return work(), time.monotonic_ns() - start
