"""Captions of two callers on an injected clock: a flood of one leaves the other its part of the device's time."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pytest
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step
from resonnx_server.scheduling.device import Job

from ..asking import caption
from ..hand import Hand, caption_engine
from ..language import Language, picture

FLOOD: Final = 200
# As measured of a ResNet-50 with an LSTM on two cores.
SLOTS: Final = 64
STEPS: Final = 20
LONGEST_MS: Final = 9 + 7.35 * 16


def _encode_ms(pictures: int) -> float:
    return 9 + 7.35 * pictures


def _step_ms(rows: int) -> float:
    return 0.95 + 0.086 * rows


class OneLane(Hand):
    """A lane whose jobs take what their graphs do."""

    def __init__(self) -> None:
        super().__init__(1, random.Random(1))

    def end(self, job: Job) -> None:
        job.run()
        with self.lock:
            job.finish()
        self._jobs.remove(job)


class Timed(Language):
    """Graphs that take their time of the device's clock."""

    def __init__(self, device: OneLane) -> None:
        super().__init__()
        self._device = device

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        self._device.ns += int(1e6 * _encode_ms(len(images)))
        return super().encode(images)

    def step(self, tokens: np.ndarray, *arrays: object, **wanted: bool) -> Step:
        self._device.ns += int(1e6 * _step_ms(len(tokens)))
        return super().step(tokens, *arrays, **wanted)


@dataclass
class Load:
    """Captions that a caller keeps in flight; `took_ms` are those answered so far."""

    caller: str
    in_flight: int
    priority: int = 4
    took_ms: list[float] = field(default_factory=list)

    async def ask(self, engine: CaptionEngine, begin_ns: int) -> None:
        options = DecodeOptions(max_tokens=STEPS, min_tokens=STEPS)
        await caption(engine, picture(0), options, priority=self.priority, caller=self.caller)
        self.took_ms.append((engine.device.clock() - begin_ns) / 1e6)


async def _serve(*loads: Load, seconds: float = 4.0) -> None:
    """Let callers keep their captions in flight; the first of `seconds` is not counted.

    An answer's caller sends its next request after the next job has begun.
    """
    device = OneLane()
    engine = caption_engine(Timed(device), device, slots=SLOTS, encode_ms=_encode_ms, step_ms=_step_ms)
    under_way: dict[asyncio.Task[None], Load] = {}
    missing = [load for load in loads for _ in range(load.in_flight)]
    is_warm = False
    while device.ns < seconds * 1e9:
        if not is_warm and device.ns > 1e9:
            is_warm = True
            for load in loads:
                load.took_ms.clear()
        begin_ns = device.ns
        device.turn(engine)
        for load in missing:
            under_way[asyncio.ensure_future(load.ask(engine, begin_ns))] = load
        for _ in range(4):
            await asyncio.sleep(0)
        missing = [under_way.pop(task) for task in [*under_way] if task.done()]
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    engine.close()
    device.close()


def _p99(took_ms: list[float]) -> float:
    return sorted(took_ms)[int(0.99 * len(took_ms))]


async def test_beside_a_flood_sixteen_captions_in_flight_keep_half_of_their_goodput() -> None:
    """The flood fills the decode slots: without turns, each caption would wait for all of its pictures' encoding."""
    solo, good, flood, alone = Load("good", 16), Load("good", 16), Load("flood", FLOOD), Load("flood", FLOOD)
    await _serve(solo)
    await _serve(good, flood)
    await _serve(alone)
    assert len(good.took_ms) >= 0.45 * len(solo.took_ms)
    assert len(good.took_ms) + len(flood.took_ms) >= 0.9 * len(alone.took_ms), "and hardly any time is lost"


async def test_a_single_caption_waits_for_two_batches_of_a_flood_at_most() -> None:
    solo, good, flood, alone = Load("good", 1), Load("good", 1), Load("flood", FLOOD), Load("flood", FLOOD)
    await _serve(solo)
    await _serve(good, flood)
    await _serve(alone)
    assert _p99(good.took_ms) <= _p99(solo.took_ms) + 2 * LONGEST_MS
    assert len(flood.took_ms) >= 0.5 * len(alone.took_ms)


async def test_equal_floods_share_alike_and_lose_no_time() -> None:
    one, other, alone = Load("one", FLOOD), Load("other", FLOOD), Load("one", 2 * FLOOD)
    await _serve(one, other)
    await _serve(alone)
    assert len(one.took_ms) == pytest.approx(len(other.took_ms), rel=0.15)
    assert len(one.took_ms) + len(other.took_ms) >= 0.95 * len(alone.took_ms)


async def test_captions_are_not_paused_for_less_urgent_ones_of_another_caller() -> None:
    solo, urgent, flood = Load("good", 2), Load("good", 2), Load("flood", FLOOD, priority=8)
    await _serve(solo)
    await _serve(urgent, flood)
    assert len(urgent.took_ms) >= 0.2 * len(solo.took_ms)
    assert flood.took_ms, "they have the time that is left"
