"""A server under steady load for long: `make soak MINUTES=30`. Its memory, descriptors, threads and latencies stay.

Its memory is that without pages of files. Its slope is that of a line through the least memory of each of 20 equal
parts of the time: what is there only while calls wait, as on a machine that is busy with other work, is no growth.
Before, the server bears bursts of calls, and a fifth of the time passes: the C library keeps the memory of the largest
number of calls that were ever under way at a time, and each batch size grows buffers when it first occurs.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(int(MINUTES * 60) + 300),
    pytest.mark.skipif(not MINUTES, reason="make soak MINUTES=30"),
]

# Calls a second; by default, this share of what the server bears in the beginning.
RATE = float(os.environ.get("SOAK_RATE", "0"))
_SHARE = 0.7
_PARTS = 20
# Calls at once before the time begins, and how many times.
_BURST, _BURSTS = 500, 20
# Two-sided 95 % quantiles of Student's t by degrees of freedom, for `_PARTS` parts.
_T_95 = {_PARTS - 2: 2.101}
_MOST_MB_AN_HOUR = 10.0
# Beyond which a load of so few minutes says nothing of an hour.
_LEAST_MINUTES = 20


def _slope(at_s: list[float], mb: list[float]) -> tuple[float, float]:
    """Return the slope of memory in MB an hour, and the upper end of its 95 % interval."""
    parts = [slice(i * len(mb) // _PARTS, (i + 1) * len(mb) // _PARTS) for i in range(_PARTS)]
    x = np.array([np.mean(at_s[part]) for part in parts]) / 3600
    y = np.array([np.min(mb[part]) for part in parts])
    slope, start = np.polyfit(x, y, 1)
    squares = ((y - slope * x - start) ** 2).sum() / (_PARTS - 2)
    error = math.sqrt(squares / ((x - x.mean()) ** 2).sum())
    return float(slope), float(slope + _T_95[_PARTS - 2] * error)


class Load:
    """Calls of all kinds at a rate, some of which are cancelled."""

    def __init__(self, address: str) -> None:
        self._channels = [grpc.aio.insecure_channel(address) for _ in range(2)]
        self._stubs = [vision_pb2_grpc.VisionStub(channel) for channel in self._channels]
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        self._image = vision_pb2.Image(raw={"rgb": pixels.tobytes(), "width": 64, "height": 64})
        self.latencies_s: list[float] = []
        self.failed: list[str] = []

    async def one(self) -> None:
        stub, kind, began = random.choice(self._stubs), random.random(), time.monotonic()
        try:
            if kind < 0.1:
                await stub.Caption(vision_pb2.CaptionRequest(model="scenes", image=self._image), timeout=30)
                return
            call = stub.Classify(vision_pb2.ClassifyRequest(model="digits", image=self._image), timeout=30)
            if kind < 0.2:
                asyncio.get_running_loop().call_later(random.random() * 0.01, call.cancel)
            await call
            self.latencies_s.append(time.monotonic() - began)
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code().name}: {error.details()}")

    async def most(self, seconds: float) -> float:
        """Return the calls a second that 16 callers in closed loops make."""
        until, made = time.monotonic() + seconds, 0

        async def client() -> None:
            nonlocal made
            while time.monotonic() < until:
                await self.one()
                made += 1

        await asyncio.gather(*(client() for _ in range(16)))
        return made / seconds

    async def bursts(self, calls: int, times: int) -> None:
        """Make so many calls at once, several times; some may be refused."""
        for _ in range(times):
            await asyncio.gather(*(self.one() for _ in range(calls)))
        self.failed.clear()
        self.latencies_s.clear()

    async def at_rate(self, rate: float, seconds: float, each_second: Callable[[float], None]) -> None:
        """Make calls at a rate whether or not they are answered, and report each second."""
        began, made, reported = time.monotonic(), 0, 0
        calls: set[asyncio.Task[None]] = set()
        while (now := time.monotonic() - began) < seconds:
            while made < now * rate:
                call = asyncio.create_task(self.one())
                calls.add(call)
                call.add_done_callback(calls.discard)
                made += 1
            if now > reported:
                each_second(now)
                reported += 1
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*calls)
        await asyncio.gather(*(channel.close() for channel in self._channels))


async def test_nothing_grows(start_server, demo_repository: Path) -> None:
    with start_server(demo_repository) as server:
        load = Load(server.grpc)
        await load.most(2)
        rate = RATE or _SHARE * await load.most(8)
        await load.bursts(_BURST, _BURSTS)
        at_s: list[float] = []
        mb: list[float] = []
        answered: list[int] = []
        held: list[tuple[int, int]] = []

        def look(now: float) -> None:
            if now >= MINUTES * 60 / 5:
                at_s.append(now)
                mb.append(server.own_bytes() / (1 << 20))
                answered.append(len(load.latencies_s))
                held.append((len(server.descriptors()), server.threads()))

        await load.at_rate(rate, MINUTES * 60, look)
        slope, most = _slope(at_s, mb)
        quarter = len(answered) // 4
        early, late = (
            float(np.percentile(load.latencies_s[answered[first] : answered[last]], 99)) * 1000
            for first, last in ((0, quarter), (len(answered) - quarter - 1, len(answered) - 1))
        )
        print(f"{MINUTES:g} min at {rate:.0f} calls/s: memory {slope:+.2f} MB/h, at most {most:+.2f} (95 %)")
        print(f"p99 {early:.1f} ms, at the end {late:.1f} ms; descriptors and threads {held[0]}, at the end {held[-1]}")
        print(f"{len(load.latencies_s)} answers, failed: {sorted(set(load.failed))} {len(load.failed)}")
        assert len(load.failed) == 0
        assert all(end <= start + 2 for start, end in zip(held[0], held[-1], strict=True))
        server.ends_well()
    if MINUTES >= _LEAST_MINUTES:
        assert most < _MOST_MB_AN_HOUR
