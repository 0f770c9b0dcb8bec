"""One request from its arrival to its end: what it holds, by when it is wanted, and how it is counted. Event loop only.

with inference.begin(name, version, size) as request:
    request.limit(caller_deadline_ns, timeout_us, priority)
    outputs = await classify(request, pictures)
"""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from resonnx_server.errors import DeadlineExceeded, InvalidInput, Overloaded, WaitTooLong
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.tasks import Task
from resonnx_server.observe.stats import Timing
from resonnx_server.preprocessing.decode import DecodedPictures, Decoder, EncodedPictures, Pictures, RawPicture
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.queue import DEFAULT_PRIORITY, PRIORITY_LEVELS

__all__ = [
    "DEFAULT_PRIORITY",
    "PRIORITY_LEVELS",
    "ActiveRequest",
    "DecodedPictures",
    "EncodedPictures",
    "Inference",
    "MemoryBudget",
    "Pictures",
    "RawPicture",
    "checked_priority",
    "with_timeout",
]

T = TypeVar("T")

_RETRY_AFTER_MS: Final = 100


class MemoryBudget:
    """Bounds the bytes of requests in flight, so that a burst is refused before it fills the memory.

    Args:
        max_bytes: Request bytes in flight; a single larger request is accepted while there is no other.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0

    def take(self, size: int) -> None:
        """Count `size` bytes as in flight, until `give_back`. Raises Overloaded if the budget is spent."""
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                f"requests in flight hold {self._bytes} bytes and may hold {self._max_bytes}", _RETRY_AFTER_MS
            )
        self._bytes += size

    def give_back(self, size: int) -> None:
        """Count `size` bytes as in flight no longer."""
        self._bytes -= size


class ActiveRequest:
    """A request of a model, counted in its statistics and against the memory budget until the block ends.

    Args:
        model: Serves it.
        decoder: Prepares its pictures.
        budget: Holds its bytes.
        size: Bytes of its message.

    Attributes:
        deadline_ns: Monotonic; None if there is no deadline.
        priority: 1 (first) to PRIORITY_LEVELS.
        timing: Where its time went; must be set before the block ends without an error.
        decode_ns: Time that its pictures took to be decoded.
    """

    __slots__ = (
        "_budget",
        "_decoder",
        "_limit_us",
        "_named",
        "_size",
        "_start_ns",
        "deadline_ns",
        "decode_ns",
        "model",
        "priority",
        "timing",
    )

    def __init__(self, model: Model, decoder: Decoder, budget: MemoryBudget, size: int) -> None:
        self._start_ns = time.monotonic_ns()
        self.model = model
        self._decoder = decoder
        self._budget = budget
        self._size = size
        self._limit_us = 0
        self._named = False
        self.deadline_ns: int | None = None
        self.priority = DEFAULT_PRIORITY
        self.timing: Timing | None = None
        self.decode_ns = 0

    def __enter__(self) -> Self:
        """Begin. Raises Overloaded if the memory budget is spent."""
        try:
            self._budget.take(self._size)
        except Overloaded as error:
            self.model.stats.request_failed(error, time.monotonic_ns() - self._start_ns)
            raise
        self.model.stats.in_progress += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stats = self.model.stats
        self._budget.give_back(self._size)
        stats.in_progress -= 1
        total_ns = time.monotonic_ns() - self._start_ns
        if error is None and self.timing is not None:
            stats.request_done(self.timing, total_ns)
        else:
            stats.request_failed(error, total_ns)

    def limit(self, caller_ns: int | None, timeout_us: int, priority: int, *, named: bool = False) -> None:
        """Set the priority and the deadline: the caller's, or the request's own timeout if that ends earlier.

        Args:
            caller_ns: The call's deadline, monotonic ns, at which gRPC ends it; None if it has none.
            timeout_us: From the request's arrival; 0 is none.
            priority: 1 (first) to PRIORITY_LEVELS; 0 is the default.
            named: The timeout is the tensor protocol's parameter `timeout`: errors name it with its unit, as many
                clients mean seconds.

        Raises:
            InvalidInput: There is no such priority.
        """
        self.priority = checked_priority(priority, "priority")
        self.deadline_ns = caller_ns
        if timeout_us:
            own_ns = self._start_ns + timeout_us * 1000
            if caller_ns is None or own_ns < caller_ns:
                self.deadline_ns, self._limit_us, self._named = own_ns, timeout_us, named

    def in_time(self, work: Awaitable[T]) -> Awaitable[T]:
        """Return `work`, which raises DeadlineExceeded if the request's own timeout passes before it is done."""
        if not self._limit_us:
            return work
        return with_timeout(self._limit_us, work, named=self._named)

    async def decoding(self, pictures: Pictures) -> Decoding | None:
        """Return how long its pictures should take to be decoded; None if they are decoded."""
        options = self.model.pictures
        assert options is not None
        if isinstance(pictures, DecodedPictures):
            return None
        return await self._decoder.expected_of(pictures, options, self.priority)

    async def pixels(self, pictures: Pictures) -> Pixels:
        """Return its pictures as the model takes them, uint8 [N,H,W,3]. Raises BadImage if one cannot be decoded."""
        options = self.model.pictures
        assert options is not None
        if isinstance(pictures, DecodedPictures):
            return pictures.pixels
        start_ns = time.monotonic_ns()
        pixels = await self._decoder.pixels_of(pictures, options, self.priority)
        self.decode_ns = time.monotonic_ns() - start_ns
        return pixels


async def with_timeout(timeout_us: int, work: Awaitable[T], *, named: bool) -> T:
    """Wait for `work`.

    Args:
        timeout_us: Microseconds that it may take.
        work: May raise DeadlineExceeded or WaitTooLong by itself.
        named: See ActiveRequest.limit.

    Raises:
        DeadlineExceeded: It takes longer.
    """
    try:
        try:
            async with asyncio.timeout(timeout_us / 1e6):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("the request's timeout passed before the answer was there") from None
    except (DeadlineExceeded, WaitTooLong) as error:
        if named:
            error.message += f" (the parameter 'timeout' is {timeout_us} µs, {timeout_us / 1000:g} ms)"
        raise


def checked_priority(priority: int, field: str) -> int:
    """Return a request's priority, 1 (first) to PRIORITY_LEVELS; 0 stands for the default, as in Triton.

    Raises:
        InvalidInput: There is no such priority; names `field`.
    """
    if priority > PRIORITY_LEVELS:
        raise InvalidInput(field, f"{priority} is not within 0..{PRIORITY_LEVELS}")
    return priority or DEFAULT_PRIORITY


@dataclass(frozen=True)
class Inference:
    """What all fronts share: the models, the decoder of pictures, and the budget of request bytes."""

    models: Models
    decoder: Decoder
    budget: MemoryBudget

    def begin(self, name: str, version: int, size: int, task: Task | None = None) -> ActiveRequest:
        """Return a request of `size` bytes for a model; version 0 is the one served by default.

        Raises:
            ServerError: No such model serves; see Models.find.
        """
        return ActiveRequest(self.models.find(name, version, task), self.decoder, self.budget, size)
