"""The decode loop on its real threads, with graphs whose every row spells its own picture."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_server.engine.captioner import CaptionEngine, next_action
from resonnx_server.engine.device import Device
from resonnx_server.engine.latency import LatencyTable, sizes_up_to
from resonnx_server.engine.slots import Slots
from resonnx_server.errors import DeadlineExceeded, InferenceFailed, Overloaded
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.beams import Sequence
from resonnx_server.runtime.graphs import Step

END, START = 0, 1
SPEC = CaptionerSpec(vocabulary=[str(i) for i in range(2000)], start_id=START, end_id=END, max_tokens=50)
POISON = 255


class Graphs:
    """A picture (first, length) is captioned first+10, first+11, … of that length, then the end token.

    The step reads all it needs from the row's own state and features, so a mix-up of rows changes the words.
    """

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.steps: list[int] = []

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        if (images[:, 0, 0, 0] == POISON).any():
            raise RuntimeError("poisoned picture")
        pixels = images.reshape(len(images), -1).astype(np.int64)
        return [np.zeros((len(images), 1), np.int64)], [pixels[:, :2]], None

    def step(self, tokens: np.ndarray, state: list[np.ndarray], features: list[np.ndarray]) -> Step:
        self.free.wait(10)
        self.steps.append(len(tokens))
        count, (first, length) = state[0][:, 0], features[0].T
        expected = np.where(count == 0, START, first + 10 + count - 1)
        words = np.where(count < length, first + 10 + count, END)
        # A row that was fed another row's token says so.
        ids = np.where(tokens == expected, words, 1999)
        return Step(ids[:, None], np.full((len(ids), 1), -0.5, np.float32), [state[0] + 1], None)


@asynccontextmanager
async def _engine(graphs: Graphs, lanes: int = 1, queue: int = 5000, slots: int = 32) -> AsyncIterator[CaptionEngine]:
    device = Device("test", lanes)
    table = {size: 1e6 + 1e4 * size for size in sizes_up_to(slots)}
    engine = CaptionEngine(
        graphs,  # type: ignore[arg-type]
        SPEC,
        LatencyTable({size: 1e6 * size for size in sizes_up_to(16)}),
        LatencyTable(table),
        Slots(slots, [np.zeros((1, 1), np.int64)], [np.zeros((1, 2), np.int64)]),
        device,
        Metrics().model("m", 1),
        max_queue_rows=queue,
    )
    try:
        yield engine
    finally:
        graphs.free.set()
        engine.close()
        device.close()


def _picture(first: int, length: int) -> np.ndarray:
    return np.array([first, length, 0], np.uint8).reshape(1, 1, 3)


def _words(sequence: Sequence) -> list[int]:
    return [token.id for token in sequence.shown()]


@pytest.mark.parametrize("lanes", [1, 2, 3])
async def test_every_caption_is_its_own(lanes: int) -> None:
    picks = random.Random(5)
    graphs = Graphs()
    async with _engine(graphs, lanes) as engine:

        async def ask(_: int) -> None:
            first, length = picks.randrange(250), picks.randrange(0, 40)
            for _ in range(picks.randrange(4)):
                await asyncio.sleep(0)
            seen: list[int] = []
            sequence, timing = await engine.submit(_picture(first, length), 50, lambda token: seen.append(token.id))
            assert _words(sequence) == seen == [first + 10 + i for i in range(length)]
            assert sequence.log_prob() == pytest.approx(-0.5 * (length + 1))
            assert 1 <= timing.batch_rows <= 16

        await asyncio.wait_for(asyncio.gather(*(ask(i) for i in range(400))), 60)
        await asyncio.sleep(0)
        assert engine.active_rows() == engine.queued_rows() == len(engine.slots) == 0
    assert max(graphs.steps) > 8, "captions share steps"


async def test_max_tokens_cuts() -> None:
    async with _engine(Graphs()) as engine:
        sequence, _ = await engine.submit(_picture(3, 30), 7)
        assert _words(sequence) == [13 + i for i in range(7)]


async def test_half_cancelled_leave_no_slot_and_change_nobody() -> None:
    picks = random.Random(6)
    async with _engine(Graphs(), lanes=2) as engine:

        async def ask(i: int) -> None:
            first, length = picks.randrange(250), picks.randrange(1, 30)
            task = asyncio.ensure_future(engine.submit(_picture(first, length), 50))
            if i % 2:
                for _ in range(picks.randrange(12)):
                    await asyncio.sleep(0.0005 if picks.random() < 0.3 else 0)
                task.cancel()
            try:
                sequence, _ = await task
            except asyncio.CancelledError:
                return
            assert _words(sequence) == [first + 10 + j for j in range(length)]

        await asyncio.wait_for(asyncio.gather(*(ask(i) for i in range(600))), 60)
        await _until(lambda: engine.active_rows() == 0 and len(engine.slots) == 0)
        assert engine.queued_rows() == 0


async def test_poisoned_picture_fails_alone() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with _engine(graphs) as engine:
        first = asyncio.ensure_future(engine.submit(_picture(1, 3), 50))
        await _until(lambda: engine.active_rows() == 1)
        asks = [asyncio.ensure_future(engine.submit(_picture(n, 3), 50)) for n in (5, POISON, 7)]
        await _until(lambda: engine.queued_rows() == 3)
        graphs.free.set()
        results = await asyncio.gather(*asks, return_exceptions=True)
        await first
    assert isinstance(results[1], InferenceFailed)
    assert [_words(results[i][0]) for i in (0, 2)] == [[15, 16, 17], [17, 18, 19]]


async def test_deadline_frees_the_slot() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with _engine(graphs) as engine:
        ask = asyncio.ensure_future(engine.submit(_picture(1, 40), 50, deadline_ns=time.monotonic_ns() + 20_000_000))
        await _until(lambda: engine.active_rows() == 1)
        await _until(lambda: time.monotonic_ns() > 0 and _passed(ask, engine))
        graphs.free.set()
        with pytest.raises(DeadlineExceeded):
            await ask
        await _until(lambda: engine.active_rows() == 0)


def _passed(ask: "asyncio.Future[object]", engine: CaptionEngine) -> bool:
    owner = engine.slots.owners[0]
    return owner.deadline_ns is not None and time.monotonic_ns() > owner.deadline_ns


async def test_full_queue_refuses() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with _engine(graphs, queue=2, slots=1) as engine:
        asks = [asyncio.ensure_future(engine.submit(_picture(1, 1), 50))]
        await _until(lambda: engine.active_rows() == 1)
        asks += [asyncio.ensure_future(engine.submit(_picture(1, 1), 50)) for _ in range(2)]
        await _until(lambda: engine.queued_rows() == 2)
        with pytest.raises(Overloaded):
            await engine.submit(_picture(1, 1), 50)
        graphs.free.set()
        await asyncio.gather(*asks)


@given(st.integers(0, 100), st.integers(0, 64), st.integers(0, 64))
def test_there_is_always_something_to_do_if_anything_can_be_done(waiting: int, active: int, free: int) -> None:
    action = next_action(waiting, active, free)
    assert (action == "nothing") == (active == 0 and (waiting == 0 or free == 0))
    if action == "encode":
        assert waiting > 0
        assert free > 0
    if action == "step":
        assert active > 0


async def _until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
