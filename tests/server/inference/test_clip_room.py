"""Clips find room by their number, not by their frames: many long ones wait, and a flood of them is still refused."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np
import pytest
from resonnx_server.config import ModelSettings
from resonnx_server.errors import Overloaded
from resonnx_server.inference.videos.clips import encode
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, TensorInstanceGroup, Tensors
from resonnx_server.video.engine import VideoEngine, VideoReservation, VideoSessions

from ..hand import Hand

DEFAULT = ModelSettings().max_queue_size
# Frames of a full batch.
BATCH = 16
LANES = 2
# Long clips that wait at a time.
MOST = DEFAULT // BATCH
FILES = Decoding(1e6, 1e6)


def _encoder(feeds: Mapping[str, np.ndarray]) -> Tensors:
    return {"features": feeds["image"].reshape(-1, 3)[:, :2].astype(np.float32)}


def _network(feeds: Mapping[str, np.ndarray]) -> Tensors:
    read = np.arange(feeds["features"].shape[1]) < feeds["lengths"][:, np.newaxis]
    return {"logits": (feeds["features"] * read[..., np.newaxis]).sum(axis=1)}


@asynccontextmanager
async def running(lanes: int = LANES, max_queue_rows: int = DEFAULT) -> AsyncIterator[VideoEngine]:
    device = Hand(lanes, random.Random(lanes))

    def group(run: Callable[[Mapping[str, np.ndarray]], Tensors]) -> TensorInstanceGroup:
        pool = SessionPool(run, LatencyTable({size: 1e6 + 1e5 * size for size in sizes_up_to(BATCH)}))
        return InstanceGroup(pool, pool, lanes)

    sessions = VideoSessions(group(_encoder), group(_network), None, table_frames=34, feature_size=2, max_frames=4000)
    engine = VideoEngine(sessions, device, Metrics().model("m", 1), max_queue_rows=max_queue_rows)
    try:
        yield engine
    finally:
        engine.close()
        device.close()


async def classify(engine: VideoEngine, frames: int, decoding: Decoding | None = None, caller: str = "") -> float:
    with engine.reserve([frames], None, 4, decoding, caller) as reservation:
        # To decode takes a while.
        await asyncio.sleep(0)
        return await _classify(engine, reservation, frames)


async def _classify(engine: VideoEngine, reservation: VideoReservation, frames: int) -> float:
    assert engine.frames is not None
    assert reservation.frames is not None
    features, _ = await encode(engine.frames, np.ones((frames, 1, 1, 3), np.uint8), reservation.frames)
    inputs = {"features": features[np.newaxis], "lengths": np.array([frames], np.int64)}
    outputs, _ = await engine.clips.submit(inputs, reservation.later)
    return float(outputs["logits"][0, 0])


async def turn(engine: VideoEngine) -> None:
    assert isinstance(engine.device, Hand)
    for stage in engine._stages:
        engine.device.turn(stage)
    await asyncio.sleep(0)


async def served(engine: VideoEngine, asked: list[asyncio.Task[float]]) -> list[float | BaseException]:
    while not all(task.done() for task in asked):
        await turn(engine)
    return await asyncio.gather(*asked, return_exceptions=True)


def nothing_is_left(engine: VideoEngine) -> bool:
    assert engine.frames is not None
    queue = engine.frames._queue
    left = (queue.rows, queue.reserved_rows, queue._part_rows, sum(queue._room), sum(queue._backlog.total))
    return not any(left) and not queue._held


@pytest.mark.parametrize("decoding", [None, FILES])
@pytest.mark.parametrize("lanes", [1, 2, 16])
async def test_sixteen_callers_of_clips_of_many_lengths_are_all_served(lanes: int, decoding: Decoding | None) -> None:
    async with running(lanes) as engine:

        async def caller(number: int) -> float:
            lengths = [random.Random(number + turn).randint(4, 64) for turn in range(6)]
            # Of one address, as all are behind one proxy.
            answers = [await classify(engine, length, decoding) for length in lengths]
            assert answers == lengths
            return sum(answers)

        answers = await served(engine, [asyncio.create_task(caller(number)) for number in range(16)])
        assert not [each for each in answers if isinstance(each, BaseException)]
        assert nothing_is_left(engine)


@pytest.mark.parametrize(("decoding", "most"), [(None, MOST), (FILES, MOST // 2)])
async def test_a_flood_of_clips_is_refused_before_a_frame_is_decoded(decoding: Decoding | None, most: int) -> None:
    async with running() as engine:
        reserved = [engine.reserve([300], decoding=decoding) for _ in range(most)]
        with pytest.raises(Overloaded, match=f"{most * BATCH} rows"):
            engine.reserve([300], decoding=decoding)
        # Others have an equal part.
        engine.reserve([300], caller="other").__exit__(None, None, None)
        asked = [asyncio.create_task(_classify(engine, each, 300)) for each in reserved]
        # What was admitted is never refused: the frames of all wait, of each but a few parts.
        for _ in range(5):
            await asyncio.sleep(0)
        assert engine.queued_rows() == most * BATCH * (LANES + 1)
        if decoding is None:
            with pytest.raises(Overloaded, match=f"the queue holds {DEFAULT} rows and may hold {DEFAULT}"):
                engine.reserve([300])
        else:
            # What waits for no file any more leaves room to other files.
            engine.reserve([300], decoding=decoding).__exit__(None, None, None)
        assert await served(engine, asked) == [300.0] * most
        for each in reserved:
            each.__exit__(None, None, None)
        assert nothing_is_left(engine)
        assert await served(engine, [asyncio.create_task(classify(engine, 300))]) == [300.0]


async def test_a_clip_that_is_longer_than_the_queue_is_served() -> None:
    async with running(max_queue_rows=4) as engine:
        assert await served(engine, [asyncio.create_task(classify(engine, 100, FILES))]) == [100.0]
        assert nothing_is_left(engine)


async def test_cancelled_clips_leave_their_room() -> None:
    async with running() as engine:
        rng = random.Random(1)
        for _ in range(20):
            asked = [asyncio.create_task(classify(engine, rng.randint(1, 90), FILES, f"{n % 3}")) for n in range(12)]
            for _ in range(rng.randint(0, 8)):
                await turn(engine)
            for task in asked:
                task.cancel()
            await served(engine, asked)
            # Parts of cancelled clips are cancelled a turn later.
            for _ in range(50):
                await turn(engine)
            assert nothing_is_left(engine)


async def test_later_clips_expect_to_wait_for_frames_that_are_still_to_come() -> None:
    async with running(1) as engine:
        assert engine.frames is not None
        reserved = engine.reserve([300])
        asked = asyncio.create_task(_classify(engine, reserved, 300))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with engine.device.lock:
            waiting = engine.queued_rows()
            assert 0 < waiting < 300
            table = engine.frames.instance_group.table
            assert engine.frames.ahead_ns(4, "", 300) == pytest.approx(table.drain_ns(waiting + BATCH))
        await served(engine, [asked])
        reserved.__exit__(None, None, None)
        assert nothing_is_left(engine)
