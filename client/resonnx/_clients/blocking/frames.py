"""The requests of a stream of frames, for each of its attempts."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from resonnx_proto.v1 import vision_pb2

from resonnx._transport.channel import MAX_MESSAGE_BYTES

_Request = vision_pb2.ClassifyVideoStreamRequest


class Frames:
    """Keeps requests until the first answer, to send them again. Frames are read in gRPC's thread, one ahead of it.

    Args:
        requests: Made of the frames.
    """

    def __init__(self, requests: Iterator[_Request]) -> None:
        self._requests = requests
        self._lock = threading.Lock()
        self._kept: dict[int, _Request] = {}
        self._count = self._first = self._bytes = 0
        self._ended = False
        # No further attempt follows: there was an answer, or too much would have to be kept.
        self.final = False
        self.error: Exception | None = None

    def attempt(self, call: "Future[Any]") -> Generator[_Request]:
        """Yield the requests; if a frame fails, set `error` and cancel the call."""
        at = 0
        while (request := self._request(at)) is not None:
            at += 1
            yield request
        if self.error is not None:
            call.result().cancel()

    def _request(self, at: int) -> _Request | None:
        request = self._kept.get(at)
        if request is None:
            with self._lock:
                # The thread of an earlier attempt may have read it.
                request = self._kept.get(at) or self._read()
        while self.final and self._first <= at:
            self._kept.pop(self._first, None)
            self._first += 1
        return request

    def _read(self) -> _Request | None:
        request = None
        if not self._ended:
            try:
                request = next(self._requests, None)
            except Exception as error:
                self.error = error
        if request is None:
            self._ended = True
            return None
        self._kept[self._count] = request
        self._count += 1
        self._bytes += request.ByteSize()
        self.final |= self._bytes > MAX_MESSAGE_BYTES
        return request


def requests_of(frames: Iterable[Any], convert: Callable[[int, Any], _Request]) -> Generator[_Request]:
    """Yield the request of each frame; raises ValueError if there is none."""
    number = -1
    for number, frame in enumerate(frames):
        yield convert(number, frame)
    if number < 0:
        raise ValueError("a video has at least one frame, got none")
