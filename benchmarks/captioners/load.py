"""Sends caption requests of given lengths to one server, as a closed or an open loop."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final

import grpc
import numpy as np
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

# 6 to 18 tokens, 11 on average.
LENGTHS: Final = range(6, 19)
WEIGHTS: Final = [0.93 ** (length - 6) for length in LENGTHS]
_PICTURES: Final = 16
# Answers of the first moments are those of an empty server.
_WARM_UP_S: Final = 1.0


@dataclass
class Outcome:
    """Answers of one measurement.

    Attributes:
        seconds: Measured time.
        answered_ms: From sending to answer.
        first_word_ms: From sending to the first word, where words were streamed.
    """

    seconds: float
    answered_ms: list[float] = field(default_factory=list)
    first_word_ms: list[float] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take another measurement's answers for part of this one."""
        self.seconds += other.seconds
        self.answered_ms += other.answered_ms
        self.first_word_ms += other.first_word_ms

    @property
    def rate(self) -> float:
        """Captions a second."""
        return len(self.answered_ms) / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median time to the answer."""
        return median(self.answered_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the time to the answer."""
        return quantiles(self.answered_ms, n=100)[98]


class Load:
    """Requests for one model of one server, whose lengths only min_tokens and max_tokens tell.

    Args:
        server: HOST:PORT.
        model: Name of the model.
        side: Height and width in pixels of the pictures, which are sent raw.
        beam_width: Beam width of every request.
        seed: Seed of lengths, pictures and arrivals.
    """

    def __init__(self, server: str, model: str, side: int, beam_width: int = 1, seed: int = 0) -> None:
        self._server, self._model, self._beam_width = server, model, beam_width
        self._random = random.Random(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (_PICTURES, side, side, 3), np.uint8)
        self._images = [
            vision_pb2.Image(raw=vision_pb2.Image.Raw(rgb=p.tobytes(), width=side, height=side)) for p in pixels
        ]

    def closed(self, clients: int, seconds: float) -> Outcome:
        """Run a closed loop of `clients` clients for `seconds`."""

        async def run(ask: Callable[[], Awaitable[None]], ends: float) -> None:
            async def client() -> None:
                while time.perf_counter() < ends:
                    await ask()

            await asyncio.gather(*(client() for _ in range(clients)))

        return asyncio.run(self._measure(run, seconds, stream=False))

    def open(self, rate: float, seconds: float, *, stream: bool = False) -> Outcome:
        """Run an open loop with Poisson arrivals at `rate` requests per second."""

        async def run(ask: Callable[[], Awaitable[None]], ends: float) -> None:
            asked = []
            at = time.perf_counter()
            while at < ends:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                asked.append(asyncio.ensure_future(ask()))
                at += self._random.expovariate(rate)
            await asyncio.gather(*asked)

        return asyncio.run(self._measure(run, seconds, stream=stream))

    async def _measure(
        self,
        run: Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]],
        seconds: float,
        *,
        stream: bool,
    ) -> Outcome:
        outcome = Outcome(seconds)
        begins = time.perf_counter() + _WARM_UP_S
        async with grpc.aio.insecure_channel(self._server) as channel:
            stub = vision_pb2_grpc.VisionStub(channel)

            async def ask() -> None:
                sent, first = time.perf_counter(), None
                if stream:
                    async for _ in stub.StreamCaption(self._request()):
                        first = first or time.perf_counter()
                else:
                    await stub.Caption(self._request())
                answered = time.perf_counter()
                if begins <= answered < begins + seconds:
                    outcome.answered_ms.append((answered - sent) * 1e3)
                    if first is not None:
                        outcome.first_word_ms.append((first - sent) * 1e3)

            await run(ask, begins + seconds)
        return outcome

    def _request(self) -> vision_pb2.CaptionRequest:
        (tokens,) = self._random.choices(LENGTHS, WEIGHTS)
        return vision_pb2.CaptionRequest(
            model=self._model,
            image=self._random.choice(self._images),
            min_tokens=tokens,
            max_tokens=tokens,
            beam_width=self._beam_width,
        )
