"""The requests of a stream of frames, for each of its attempts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Any

from resonnx_proto.v1 import vision_pb2

from resonnx._transport.channel import MAX_MESSAGE_BYTES

_Request = vision_pb2.ClassifyVideoStreamRequest


class Frames:
    """Keeps requests until the first answer, to send them again. Frames are read in a task, one ahead of gRPC.

    Args:
        requests: Made of the frames.
    """

    def __init__(self, requests: AsyncGenerator[_Request]) -> None:
        self._requests = requests
        self._kept: dict[int, _Request] = {}
        self._count = self._first = self._bytes = 0
        self._ended = False
        self._reading: asyncio.Task[None] | None = None
        # No further attempt follows: there was an answer, or too much would have to be kept.
        self.final = False
        self.error: Exception | None = None

    async def attempt(self, call: "asyncio.Future[Any]") -> AsyncGenerator[_Request]:
        """Yield the requests; if a frame fails, set `error` and cancel the call."""
        at = 0
        while (request := await self._request(at)) is not None:
            at += 1
            yield request
        if self.error is not None:
            (await call).cancel()

    async def close(self) -> None:
        """End the reading of frames."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._requests.aclose()

    async def _request(self, at: int) -> _Request | None:
        while (request := self._kept.get(at)) is None and not self._ended:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            # The end of an attempt does not end the reading.
            await asyncio.shield(self._reading)
        while self.final and self._first <= at:
            self._kept.pop(self._first, None)
            self._first += 1
        return request

    async def _read(self) -> None:
        request = None
        try:
            request = await anext(self._requests, None)
        except Exception as error:
            self.error = error
        self._reading = None
        if request is None:
            self._ended = True
            return
        self._kept[self._count] = request
        self._count += 1
        self._bytes += request.ByteSize()
        self.final |= self._bytes > MAX_MESSAGE_BYTES


async def requests_of(
    frames: AsyncIterable[Any] | Iterable[Any], convert: Callable[[int, Any], _Request]
) -> AsyncGenerator[_Request]:
    """Yield the request of each frame; raises ValueError if there is none."""
    number = 0
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield convert(number, frame)
            number += 1
    else:
        for frame in frames:
            yield convert(number, frame)
            number += 1
    if not number:
        raise ValueError("a video has at least one frame, got none")
