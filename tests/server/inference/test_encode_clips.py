"""Frames of a long clip and those of clips that come after it share batches by turns."""

import asyncio

import numpy as np
from resonnx_server.inference.videos.clips import encode
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorCost, TensorEngine

from ..tensors.doubling import COSTS, Doubling, running_engine
from ..waiting import until


class Encoder(Doubling):
    """Gives each frame's number as its feature."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[list[int]] = []

    def __call__(self, feeds: Tensors) -> Tensors:  # type: ignore[override]
        self.entered += 1
        self.free.wait(10)
        numbers = feeds["image"].reshape(len(feeds["image"]), -1)[:, 0]
        self.frames.append(numbers.tolist())
        return {"features": numbers[:, np.newaxis].astype(np.float32)}


async def encoded(engine: TensorEngine, first: int, count: int) -> np.ndarray:
    pixels = np.arange(first, first + count, dtype=np.int64).reshape(-1, 1, 1, 1)
    with engine.reserve(TensorCost(count)) as reservation:
        features, timings = await encode(engine, pixels, reservation)
    assert all(timing.compute_infer_ns >= 0 for timing in timings)
    return features[:, 0]


async def test_a_clip_of_300_frames_does_not_hold_up_short_ones() -> None:
    runtime = Encoder()
    async with running_engine(runtime) as engine:
        runtime.free.clear()
        long = asyncio.create_task(encoded(engine, 0, 300))
        await asyncio.sleep(0)
        short = [asyncio.create_task(encoded(engine, 1000 + 10 * i, 4)) for i in range(4)]
        await until(lambda: runtime.entered)
        largest = max(COSTS)
        # One part of the long clip runs, and one waits.
        assert engine.queued_rows() <= 2 * largest + 16
        runtime.free.set()
        for i, answer in enumerate(await asyncio.gather(*short)):
            assert answer.tolist() == [1000 + 10 * i + frame for frame in range(4)]
        assert not long.done()
        assert (await long).tolist() == list(range(300))
    order = [number for batch in runtime.frames for number in batch]
    last_short = max(i for i, number in enumerate(order) if number >= 1000)
    assert last_short <= 4 * largest


async def test_a_cancelled_clip_leaves_nothing_in_the_queue() -> None:
    runtime = Encoder()
    async with running_engine(runtime) as engine:
        runtime.free.clear()
        long = asyncio.create_task(encoded(engine, 0, 300))
        await until(lambda: runtime.entered)
        assert engine.queued_rows()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        await until(lambda: not engine.queued_rows())
        runtime.free.set()
        assert (await encoded(engine, 5, 3)).tolist() == [5, 6, 7]
    assert sum(len(batch) for batch in runtime.frames) < 100
