"""A codec that a test holds up, and a decoder that uses it."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.preprocessing import decode
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.images import OnSize
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.deadline_admission import Decoding

OPTIONS = PictureOptions(
    ImageInput(width=2, height=1, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)
)


class Codec:
    """In place of images.load: notes what it is given, and goes on when it may."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.may_end = threading.Semaphore(0)
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def load(
        self, encoded: bytes, options: PictureOptions, field: str, told: Header, on_size: OnSize | None
    ) -> np.ndarray:
        with self._lock:
            self.began.append(field)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.may_end.acquire(timeout=20)
        with self._lock:
            self.under_way -= 1
        if encoded.startswith(b"bad"):
            raise BadImage(field, "bad")
        return np.full((options.recipe.height, options.recipe.width, 3), len(encoded) % 256, np.uint8)


@asynccontextmanager
async def decoding(threads: int, codec: Codec | None = None, max_bytes: int = 1 << 30) -> AsyncIterator[Decoder]:
    decoder = Decoder(threads, max_bytes)
    try:
        yield decoder
    finally:
        if codec is not None:
            codec.may_end.release(1000)
        assert await decoder.close(20)


def load(decoder: Decoder, field: str, priority: int = 4, encoded: bytes = b"x") -> "asyncio.Future[np.ndarray]":
    return asyncio.ensure_future(decoder.load(encoded, OPTIONS, field, priority))


def load_all(decoder: Decoder, files: list[bytes], priority: int = 4) -> "asyncio.Future[np.ndarray]":
    return asyncio.ensure_future(decoder.load_all(files, OPTIONS, "many", priority))


def expected(decoder: Decoder, files: list[bytes], priority: int) -> Decoding:
    return decoder.expected([decode._plan(file, OPTIONS) for file in files], OPTIONS, priority)


def references(files: list[bytes]) -> list[int]:
    return [sys.getrefcount(file) for file in files]


async def turn() -> None:
    """Let what was started come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)
