"""Decodes and resizes pictures on a few threads, by priority; the codecs release the GIL."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import numpy as np

from resonnx_server.errors import BadImage
from resonnx_server.memory.division import SMALL_PICTURE_BYTES
from resonnx_server.memory.freed import give_back_memory
from resonnx_server.preprocessing.decode_cost import DecodeCost
from resonnx_server.preprocessing.priority_threads import PriorityThreads
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.headers import Header, header
from resonnx_server.runtime.pictures.images import OnSize, Pixels
from resonnx_server.runtime.pictures.options import RAW, PictureOptions, decoding_bytes
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.sharing import Backlog

T = TypeVar("T")

# Pictures of one request that are queued or being decoded, for each thread: enough to keep all threads busy, and few,
# so that pictures of other requests of the same priority are decoded in between.
_AT_ONCE: Final = 2
# Pixels that are resized on the event loop: about a millisecond.
_RESIZED_AT_ONCE: Final = 1 << 17
# Freed memory that the C library may keep, for each thread and beside the budget: giving it back takes some ms.
_KEPT_BYTES: Final = 128 << 20
# Least time of a pixel in ns, and pixels that take as long as all else of a picture, in the sharing between callers.
_LEAST_NS: Final = 2.0
_OVERHEAD_PIXELS: Final = 16_384
# Files whose headers are read on the event loop.
_READ_AT_ONCE: Final = 8


class Plan(NamedTuple):
    """How a picture is decoded, by its header: at 1/divisor of its size, in at most `size` bytes of memory."""

    header: Header
    divisor: int
    size: int


class Decoder:
    """Decodes pictures off the event loop, in the order of their requests' priorities.

    Args:
        threads: Pictures decoded at once.
        max_bytes: Memory budget of the pictures in progress, as predicted from their headers. Small pictures, one for
            each thread, are outside it (priority_threads.py).
        small_bytes: Memory of the largest small picture.
        largest: Memory of the largest picture that is decoded, alone if it is above `max_bytes`; None for any.
    """

    def __init__(
        self,
        threads: int,
        max_bytes: int = 1 << 30,
        small_bytes: int = SMALL_PICTURE_BYTES,
        largest: int | None = None,
    ) -> None:
        self._threads = PriorityThreads(threads, "decode", max_bytes, small_bytes)
        self._count = threads
        self.max_bytes = max_bytes
        self._largest = largest
        # Event loop only: predicted time of the pictures that are queued or being decoded, by priority.
        self._ahead_ns = Backlog()
        self._cost = DecodeCost()

    async def plan(self, files: Sequence[bytes], options: PictureOptions) -> list[Plan]:
        """Read the headers of picture files: many on a thread, as each may take a millisecond."""
        if len(files) <= _READ_AT_ONCE:
            return [_plan(file, options) for file in files]
        return await asyncio.to_thread(lambda: [_plan(file, options) for file in files])

    def expected(self, plans: Sequence[Plan], options: PictureOptions, priority: int, caller: str = "") -> Decoding:
        """Return the predicted time to decode the pictures of a caller's request that comes now; zeros for none."""
        # Others will be refused.
        return self.predicted([plan for plan in plans if plan.header.pixels <= options.max_pixels], priority, caller)

    def predicted(self, plans: Sequence[Plan], priority: int, caller: str = "") -> Decoding:
        """Return the same for what will be decoded, of any number of pixels."""
        longest = alone = 0.0
        for head, divisor, size in plans:
            ns = self._cost.expected_ns(head, divisor)
            longest = max(longest, ns)
            alone += ns * self._share(size)
        ahead = self._ahead_ns.before(caller, priority, int(alone)) if plans else 0.0
        return Decoding(max(longest, alone + ahead), max(longest, alone))

    async def load(
        self,
        encoded: bytes,
        options: PictureOptions,
        field: str,
        priority: int,
        plan: Plan | None = None,
        caller: str = "",
        on_size: OnSize | None = None,
    ) -> Pixels:
        """Return a caller's picture file as uint8 [H,W,3] of the model's size. Raises BadImage, naming `field`.

        `on_size` is called on the decoder's thread, as images.load says.
        """
        plan = plan or _plan(encoded, options)
        images.check(encoded, plan.header, options, field)
        self._check(plan, field)
        work = partial(images.load, encoded, options, field, plan.header, on_size)
        return await self.run(work, plan, priority, caller)

    async def load_all(
        self,
        encoded: Sequence[bytes],
        options: PictureOptions,
        field: str,
        priority: int,
        plans: Sequence[Plan] = (),
        caller: str = "",
    ) -> Pixels:
        """Return picture files as uint8 [N,H,W,3]. Raises BadImage, naming the field and the picture's index."""

        def load(i: int) -> Awaitable[Pixels]:
            return self.load(encoded[i], options, f"{field}[{i}]", priority, plans[i] if plans else None, caller)

        return await self.all(len(encoded), options, load)

    async def all(self, count: int, options: PictureOptions, load: Callable[[int], Awaitable[Pixels]]) -> Pixels:
        """Return the pictures that `load(i)` returns for i from 0 on, uint8 [count,H,W,3]; few are loaded at a time."""
        pixels = np.empty((count, options.recipe.height, options.recipe.width, 3), np.uint8)
        left = iter(range(count))

        async def load_some() -> None:
            for i in left:
                pixels[i] = await load(i)

        loading = [asyncio.ensure_future(load_some()) for _ in range(min(count, _AT_ONCE * self._count))]
        try:
            await asyncio.gather(*loading)
        finally:
            # No task may be kept here: an error holds this frame, and its task the error. The pictures would live until
            # garbage collection.
            while loading:
                loading.pop().cancel()
        return pixels

    async def from_raw(
        self, rgb: bytes, width: int, height: int, options: PictureOptions, field: str, priority: int, caller: str = ""
    ) -> Pixels:
        """Return a caller's raw RGB pixels as uint8 [H,W,3] of the model's size. Raises BadImage, naming `field`."""
        recipe = options.recipe
        as_model = (width, height) == (recipe.width, recipe.height)
        if as_model and (width * height <= _RESIZED_AT_ONCE or images.leaves_as_is(recipe)):
            # Little or nothing to do: cheaper here than on a thread.
            return images.from_raw(rgb, width, height, options, field)
        # Before it is queued: memory is reserved by its width and height.
        images.check_raw(rgb, width, height, field, options)
        work = partial(images.from_raw, rgb, width, height, options, field)
        head = Header(RAW, width, height)
        plan = Plan(head, 1, decoding_bytes(head, options))
        self._check(plan, field)
        return await self.run(work, plan, priority, caller)

    async def run(self, work: Callable[[], T], plan: Plan, priority: int, caller: str) -> T:
        """Decode on a thread, in the order of priorities and within the memory budget, and learn the time.

        Args:
            work: Should release the GIL.
            plan: Its memory, and the header by which its time is learnt.
            priority: 1 (first) to sharing.PRIORITY_LEVELS.
            caller: Whose work it is.
        """
        head, divisor, size = plan
        share = self._share(size)
        expected = int(self._cost.expected_ns(head, divisor) * share)
        # Pictures of a kind that was never decoded, or never without an error, have a cost as well.
        cost = max(float(expected), (head.pixels + _OVERHEAD_PIXELS) * _LEAST_NS * share)
        self._ahead_ns.add(caller, priority, expected)
        try:
            result, ns = await self._threads.run(partial(_timed, work, size), priority, size, caller, cost)
        finally:
            self._ahead_ns.add(caller, priority, -expected)
        self._cost.learn(head, ns, divisor)
        return result

    @property
    def largest(self) -> int | None:
        """Memory of the largest picture or clip that is decoded, alone if need be; None for any."""
        return self._largest

    def _check(self, plan: Plan, field: str) -> None:
        """Raise BadImage if a picture would take more memory than the decoder has."""
        if self._largest is not None and plan.size > self._largest:
            width, height = plan.header.width, plan.header.height
            raise BadImage(
                field,
                f"{width}x{height} pixels take {plan.size} bytes to decode; memory_budget_bytes leaves {self._largest} "
                "to the decoder. Send a smaller picture",
            )

    def _share(self, size: int) -> float:
        """Return the share of the decoder, its threads or its memory, that a picture takes while it is decoded."""
        return max(1 / self._count, min(1.0, size / self.max_bytes))

    @property
    def large_bytes(self) -> int:
        """Memory of the pictures in progress, as predicted, without small ones."""
        return self._threads.large_bytes

    @property
    def waiting(self) -> int:
        """Pictures queued for a thread or for memory."""
        return self._threads.waiting

    async def close(self, patience_s: float) -> bool:
        """Fail queued pictures. Returns False if one is still being decoded after `patience_s`."""
        return await self._threads.close(patience_s)


def _plan(encoded: bytes, options: PictureOptions) -> Plan:
    head = header(encoded)
    divisor = options.divisor(head.width, head.height) if head.scalable else 1
    return Plan(head, divisor, decoding_bytes(head, options))


def _timed(work: Callable[[], T], size: int) -> tuple[T, int]:
    start = time.monotonic_ns()
    try:
        result = work()
    finally:
        if size > _KEPT_BYTES:
            give_back_memory()
    return result, time.monotonic_ns() - start
