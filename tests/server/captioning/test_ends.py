"""How captions end without their words: callers who leave, deadlines, a full queue, a closing engine."""

import asyncio
import random

import pytest
from resonnx_server.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    Overloaded,
    Unavailable,
)
from resonnx_server.runtime.decoding.search import DecodeOptions

from ..asking import caption
from ..hand import Hand, any_options, caption_engine
from ..language import Language, alone, ids, picture, spec
from ..waiting import Clock, until
from .graphs import Graphs, running


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_half_cancelled_leave_no_slot_and_change_no_caption(count: int) -> None:
    rng = random.Random(6)
    graphs = Graphs()
    room = asyncio.Semaphore(600)
    async with running(graphs, lanes=2) as engine:

        async def ask(i: int) -> None:
            async with room:
                await one(i)

        async def one(i: int) -> None:
            options = any_options(rng)
            task = asyncio.ensure_future(caption(engine, picture(i), options))
            if i % 2:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0.0005 if rng.random() < 0.3 else 0)
                task.cancel()
            try:
                captioned = await task
            except asyncio.CancelledError:
                return
            found = [[token.id for token in sequence.tokens] for sequence, _ in captioned.ranked]
            assert found == ids(alone(graphs, picture(i), spec(), options))

        await asyncio.wait_for(asyncio.gather(*(ask(i) for i in range(count))), 110)
        await until(lambda: engine.schedule.active.rows == 0 and len(engine.slots) == 0)
        assert engine.queued_rows() == 0


async def test_deadlines_are_refused_early_or_free_the_slot() -> None:
    graphs = Graphs()
    graphs.free.clear()
    clock = Clock()
    async with running(graphs, clock=clock) as engine:
        with pytest.raises(DeadlineUnreachable):
            await caption(engine, picture(1), DecodeOptions(max_tokens=24), deadline_ns=5_000_000)
        deadline = 60_000_000
        options = DecodeOptions(max_tokens=24, min_tokens=24)
        ask = asyncio.ensure_future(caption(engine, picture(1), options, deadline_ns=deadline))
        await until(lambda: engine.schedule.active.rows == 1)
        clock.ns = deadline + 1
        graphs.free.set()
        with pytest.raises(DeadlineExceeded):
            await ask
        await until(lambda: engine.schedule.active.rows == 0)


async def test_full_queue_refuses_and_closing_answers_all() -> None:
    graphs = Graphs()
    graphs.free.clear()
    options = DecodeOptions(max_tokens=24, min_tokens=24)
    async with running(graphs, queue=2, slots=1) as engine:
        asks = [asyncio.ensure_future(caption(engine, picture(1), options))]
        await until(lambda: engine.schedule.active.rows == 1)
        asks += [asyncio.ensure_future(caption(engine, picture(1), options)) for _ in range(2)]
        await until(lambda: engine.queued_rows() == 2)
        with pytest.raises(Overloaded):
            await caption(engine, picture(1), options)
    results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_closing_answers_those_that_are_being_encoded() -> None:
    device = Hand(1, random.Random(0))
    engine = caption_engine(Language(), device)
    ask = asyncio.ensure_future(caption(engine, picture(1), DecodeOptions(max_tokens=9)))
    await asyncio.sleep(0)
    (encode,) = device.begin(engine)
    engine.close()
    device.end(encode)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(ask, 10)


async def test_closing_answers_those_that_wait_before_the_job_under_way_ends() -> None:
    """It may hang."""
    device = Hand(1, random.Random(0))
    engine = caption_engine(Language(), device, slots=1)
    asks = [asyncio.ensure_future(caption(engine, picture(n), DecodeOptions(max_tokens=9))) for n in range(2)]
    await asyncio.sleep(0)
    (encode,) = device.begin(engine)
    engine.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asks[1], 10)
    assert not asks[0].done()
    device.end(encode)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asks[0], 10)
