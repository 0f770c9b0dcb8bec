"""Clips of many lengths share runs: each gets its own answer, padding stays small, and batches stay within memory."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import numpy as np
import pytest
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorCost
from resonnx_server.video.clips import MOST_FRAMES, ClipEngine

_TABLE_FRAMES = 8
_COSTS = {size: 1e6 + 1e5 * size for size in sizes_up_to(16)}


class Sums:
    """Sums a clip's frames, and fails on poisoned ones. Notes the lengths of each run."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.runs: list[tuple[tuple[int, ...], list[int]]] = []

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        self.free.wait(10)
        features, lengths = feeds["features"], feeds["lengths"]
        self.runs.append((features.shape, lengths.tolist()))
        if (features == -1).any():
            raise RuntimeError("poisoned")
        read = np.arange(features.shape[1]) < lengths[:, np.newaxis]
        return {"logits": (features * read[..., np.newaxis]).sum(axis=1)}


@asynccontextmanager
async def running(runtime: Sums, lanes: int = 1) -> AsyncIterator[ClipEngine]:
    device = Device("test", lanes)
    pool = SessionPool(runtime, LatencyTable(_COSTS))
    engine = ClipEngine(
        InstanceGroup(pool, pool, lanes),
        device,
        Metrics().model("m", 1),
        max_queue_rows=1000,
        table_frames=_TABLE_FRAMES,
        feature_size=2,
        max_frames=4000,
    )
    try:
        yield engine
    finally:
        runtime.free.set()
        engine.close()
        device.close()


async def classify(engine: ClipEngine, frames: np.ndarray) -> np.ndarray:
    with engine.reserve(TensorCost(1)) as reservation:
        inputs = {"features": frames[np.newaxis], "lengths": np.array([len(frames)], np.int64)}
        outputs, timing = await engine.submit(inputs, reservation)
    assert timing.batch_rows >= 1
    return outputs["logits"][0]


def clips(count: int, most: int) -> list[np.ndarray]:
    rng = random.Random(count)
    return [np.full((rng.randint(1, most), 2), rng.randint(1, 99), np.float32) for _ in range(count)]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_each_clip_gets_its_own_answer_and_is_padded_to_less_than_twice_its_length(lanes: int) -> None:
    runtime = Sums()
    async with running(runtime, lanes) as engine:
        runtime.free.clear()
        given = clips(200, 64)
        asked = [asyncio.create_task(classify(engine, each)) for each in given]
        await asyncio.sleep(0)
        runtime.free.set()
        for clip, answer in zip(given, await asyncio.gather(*asked), strict=True):
            assert answer.tolist() == clip.sum(axis=0).tolist()
    # Rows that only fill a batch up have one frame.
    real = [(shape, [length for length in lengths if length > 1]) for shape, lengths in runtime.runs]
    assert all(shape[1] < 2 * length for shape, lengths in real for length in lengths)
    assert max(shape[0] for shape, _ in runtime.runs) == 16


async def test_long_clips_share_no_batch_that_is_larger_than_the_limit() -> None:
    runtime = Sums()
    async with running(runtime) as engine:
        runtime.free.clear()
        given = [np.ones((900, 2), np.float32) for _ in range(8)] + [np.ones((4000, 2), np.float32)]
        asked = [asyncio.create_task(classify(engine, each)) for each in given]
        await asyncio.sleep(0)
        runtime.free.set()
        await asyncio.gather(*asked)
        largest = max(shape[0] * shape[1] * shape[2] * 4 for shape, _ in runtime.runs)
        assert largest <= engine.batch_bytes
    several = [shape for shape, _ in runtime.runs if shape[0] > 1]
    assert several
    assert all(shape[0] * shape[1] <= MOST_FRAMES for shape in several)


async def test_a_clip_that_fails_fails_alone() -> None:
    runtime = Sums()
    async with running(runtime) as engine:
        runtime.free.clear()
        given = [np.full((length, 2), -1.0 if length == 6 else 1.0, np.float32) for length in (5, 6, 7, 8)]
        asked = [asyncio.create_task(classify(engine, each)) for each in given]
        await asyncio.sleep(0)
        runtime.free.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[1], InferenceFailed)
    assert [answers[i].tolist() for i in (0, 2, 3)] == [[5, 5], [7, 7], [8, 8]]  # type: ignore[union-attr]


async def test_a_long_clip_is_expected_to_take_as_much_longer() -> None:
    async with running(Sums()) as engine:
        with engine.device.lock:
            short, long = engine.clips_ns([8]), engine.clips_ns([80])
        assert long == pytest.approx(10 * short)
        table = engine.instance_group.table
        before = table.cost_ns(1)
        # A run of a long clip is no evidence that clips of the table's length take longer.
        job = _job(engine, 800)
        assert job.cost_ns == pytest.approx(100 * before)


def _job(engine: ClipEngine, frames: int):  # type: ignore[no-untyped-def]
    with engine.device.lock, engine.reserve(TensorCost(1)) as reservation:
        inputs = {"features": np.ones((1, frames, 2), np.float32), "lengths": np.array([frames], np.int64)}
        engine._queue.push(engine._entry(inputs, reservation), reservation)
        return engine.take(engine.device.clock(), None)
