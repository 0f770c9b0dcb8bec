"""Decodes and resizes pictures on a few threads, the most urgent first; the codecs release the GIL."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from resonnx_server.preprocessing.decode_cost import DecodeCost
from resonnx_server.preprocessing.priority_threads import PriorityThreads
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.freed_memory import give_back_memory
from resonnx_server.runtime.pictures.headers import Header, header
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.memory import RAW, decoding_bytes
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.batcher import PRIORITY_LEVELS
from resonnx_server.scheduling.deadline_admission import Decoding

# Pictures of one request that wait or are decoded, for each thread: enough that none is idle, and no more, so that
# others of the same priority have their turn in between.
_AT_ONCE: Final = 2
# Pixels that are resized on the event loop: a millisecond or so.
_RESIZED_AT_ONCE: Final = 1 << 17
# What the C library may keep of a picture, for each thread and beside the budget: to give it back takes some ms.
_KEPT_BYTES: Final = 128 << 20
# Files whose headers are read on the event loop.
_READ_AT_ONCE: Final = 8


class Decoder:
    """Decodes pictures off the event loop, in the order of their requests' priorities.

    Args:
        threads: Pictures decoded at once.
        max_bytes: Memory that they may take together while they are decoded, told by their headers; beside it, each
            thread may decode a small picture (preprocessing/queue.py).
    """

    def __init__(self, threads: int, max_bytes: int = 1 << 30) -> None:
        self._threads = PriorityThreads(threads, "decode", max_bytes)
        self._count = threads
        self.max_bytes = max_bytes
        # Event loop only: what the pictures that wait or are decoded should keep from others, for each priority.
        self._ahead_ns = [0] * PRIORITY_LEVELS
        self._cost = DecodeCost()

    def expected(self, encoded: Sequence[bytes], options: PictureOptions, priority: int) -> Decoding:
        """Return how long picture files of a request that came now should take to be decoded; nothing for none."""
        return self._expected([header(file) for file in encoded], options, priority)

    async def expected_of_many(self, encoded: Sequence[bytes], options: PictureOptions, priority: int) -> Decoding:
        """Return the same; headers of many files, of which each may take a millisecond to read, on a thread."""
        if len(encoded) <= _READ_AT_ONCE:
            return self.expected(encoded, options, priority)
        headers = await asyncio.to_thread(lambda: [header(file) for file in encoded])
        return self._expected(headers, options, priority)

    def _expected(self, headers: Sequence[Header], options: PictureOptions, priority: int) -> Decoding:
        longest = alone = 0.0
        for told in headers:
            if told.pixels > options.max_pixels:
                # Refused, whatever it says.
                continue
            ns = self._cost.expected_ns(told, _divisor(told, options))
            longest = max(longest, ns)
            alone += ns * self._share(decoding_bytes(told, options))
        ahead = sum(self._ahead_ns[:priority]) if headers else 0.0
        return Decoding(max(longest, alone + ahead), max(longest, alone))

    async def load(self, encoded: bytes, options: PictureOptions, field: str, priority: int) -> Pixels:
        """Return a picture file as uint8 [H,W,3] of the model's size. Raises BadImage, naming `field`."""
        told = header(encoded)
        images.check(encoded, told, options, field)
        work = partial(images.load, encoded, options, field, told)
        return await self._run(work, told, options, priority)

    async def load_all(self, encoded: Sequence[bytes], options: PictureOptions, field: str, priority: int) -> Pixels:
        """Return picture files as uint8 [N,H,W,3]. Raises BadImage, naming the field and the picture's index."""
        pixels = np.empty((len(encoded), options.recipe.height, options.recipe.width, 3), np.uint8)
        left = iter(enumerate(encoded))

        async def load_some() -> None:
            for i, file in left:
                pixels[i] = await self.load(file, options, f"{field}[{i}]", priority)

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
        self, rgb: bytes, width: int, height: int, options: PictureOptions, field: str, priority: int
    ) -> Pixels:
        """Return raw RGB pixels as uint8 [H,W,3] of the model's size. Raises BadImage, naming `field`."""
        recipe = options.recipe
        as_model = (width, height) == (recipe.width, recipe.height)
        if as_model and (width * height <= _RESIZED_AT_ONCE or images.leaves_as_is(recipe)):
            # Little or nothing to do: cheaper here than a trip to a thread.
            return images.from_raw(rgb, width, height, options, field)
        # Before it waits: memory is kept for as many pixels as it says it has.
        images.check_raw(rgb, width, height, field, options)
        work = partial(images.from_raw, rgb, width, height, options, field)
        return await self._run(work, Header(RAW, width, height), options, priority)

    async def _run(self, work: Callable[[], Pixels], told: Header, options: PictureOptions, priority: int) -> Pixels:
        divisor, size = _divisor(told, options), decoding_bytes(told, options)
        expected = int(self._cost.expected_ns(told, divisor) * self._share(size))
        self._ahead_ns[priority - 1] += expected
        try:
            pixels, ns = await self._threads.run(partial(_timed, work, size), priority, size)
        finally:
            self._ahead_ns[priority - 1] -= expected
        self._cost.learn(told, ns, divisor)
        return pixels

    def _share(self, size: int) -> float:
        """Return how much of the decoder a picture keeps from others while it is decoded: of threads or of memory."""
        return max(1 / self._count, min(1.0, size / self.max_bytes))

    @property
    def waiting(self) -> int:
        """Pictures that wait for a thread, or for memory."""
        return self._threads.waiting

    async def close(self, patience_s: float) -> bool:
        """Give up pictures that wait. Returns False if one that is being decoded has not ended by then."""
        return await self._threads.close(patience_s)


def _divisor(told: Header, options: PictureOptions) -> int:
    return options.divisor(told.width, told.height) if told.scalable else 1


def _timed(work: Callable[[], Pixels], size: int) -> tuple[Pixels, int]:
    start = time.monotonic_ns()
    try:
        pixels = work()
    finally:
        if size > _KEPT_BYTES:
            give_back_memory()
    return pixels, time.monotonic_ns() - start
