"""The decode loop on its real threads, and step by step under an injected clock: every caption is its own."""

import asyncio
import random
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.encoding import EncodeJob
from resonnx_server.captioning.stepping import StepJob
from resonnx_server.errors import (
    Unavailable,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import examples
from ..asking import caption, infer
from ..hand import Hand, any_options, caption_engine
from ..language import END, Language, alone, ids, picture, spec
from ..waiting import Clock, until
from .graphs import Graphs, running


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("instances", [1, 2, 3])
async def test_every_caption_is_its_own(lanes: int, instances: int) -> None:
    rng = random.Random(5)
    graphs = Graphs()
    async with running(graphs, lanes, instances=instances) as engine:

        async def ask(number: int) -> None:
            options = any_options(rng)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            seen: list[int] = []
            listen = (lambda words: seen.extend(token.id for token in words)) if rng.random() < 0.5 else None
            captioned = await caption(engine, picture(number), options, listen)
            expected = alone(graphs, picture(number), spec(), options).ranked()
            for (found, score), (wanted, wanted_score) in zip(captioned.ranked, expected, strict=True):
                assert [t.id for t in found.tokens] == [t.id for t in wanted.tokens]
                assert score == wanted_score
                if options.attention:
                    for mine, other in zip(found.tokens, wanted.tokens, strict=True):
                        assert np.array_equal(mine.attention, other.attention)
            if listen:
                assert seen == [token.id for token in captioned.ranked[0][0].shown()]
            assert 1 <= captioned.timing.batch_rows <= 16

        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(300))), 100)
        await until(lambda: engine.schedule.active.rows == 0)
        assert engine.queued_rows() == len(engine.slots) == 0
        assert engine.stats.tokens > 0
    assert max(graphs.steps) > 8, "captions share steps"


@examples(40)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(10, 40),
)
def test_any_schedule_gives_the_captions_of_one_at_a_time(seed: int, instances: int, slots: int) -> None:
    """Mixed widths, lengths and arrival times, cancelled at any moment: 35 requests a schedule."""
    rng = random.Random(seed)
    language = Language()

    async def run() -> None:
        device = Hand(rng.randrange(instances, instances + 2), rng)
        engine = caption_engine(language, device, slots=slots, instances=instances)
        asked = []
        for number in range(35):
            options = any_options(rng)
            at = rng.randrange(100) * 1_000_000
            leaves = at + rng.randrange(60) * 1_000_000 if rng.random() < 0.3 else None
            asked.append((at, leaves, number, options))
        tasks: dict[int, asyncio.Task] = {}
        while len(tasks) < len(asked) or not all(task.done() for task in tasks.values()):
            for at, leaves, number, options in asked:
                if at <= device.ns and number not in tasks:
                    tasks[number] = asyncio.ensure_future(caption(engine, picture(number), options))
                elif leaves is not None and leaves <= device.ns and number in tasks:
                    tasks[number].cancel()
            await asyncio.sleep(0)
            device.turn(engine)
            await asyncio.sleep(0)
            assert len(engine.slots) <= slots
        for _, _, number, options in asked:
            if not tasks[number].cancelled():
                found = [[t.id for t in sequence.tokens] for sequence, _ in tasks[number].result().ranked]
                assert found == ids(alone(language, picture(number), spec(), options))
        while device.idle_lanes() < device.lanes:
            device.turn(engine)
        device.turn(engine)
        assert len(engine.slots) == engine.queued_rows() == engine.schedule.active.rows == 0
        assert device.most_at_once <= instances, "at most so many at once, a step among them"

    asyncio.run(run())


async def test_words_go_on_while_others_are_encoded() -> None:
    """With two at once, a picture is encoded beside the steps of captions under way, and by itself has the device."""
    language = Language()
    device = Hand(2, random.Random(0))
    engine = caption_engine(language, device, instances=2)

    options = DecodeOptions(max_tokens=20, min_tokens=20)
    asks = [asyncio.ensure_future(caption(engine, picture(1), options))]
    await asyncio.sleep(0)
    (first,) = device.begin(engine)
    assert isinstance(first, EncodeJob)
    assert first.pool is engine.encoders.latency_session
    asks.append(asyncio.ensure_future(caption(engine, picture(2), options)))
    await asyncio.sleep(0)
    assert not device.begin(engine), "it has all cores"
    device.end(first)
    encode, step = device.begin(engine)
    assert isinstance(encode, EncodeJob)
    assert isinstance(step, StepJob)
    assert encode.pool is engine.encoders.throughput_session
    assert step.pool is engine.decoders.throughput_session
    for _ in range(3):
        device.end(step)
        (step,) = device.begin(engine)
        assert isinstance(step, StepJob), "the picture is still being encoded"
    device.end(encode)
    assert not device.begin(engine), "one step at a time"
    device.end(step)
    (step,) = device.begin(engine)
    assert isinstance(step, StepJob)
    assert step.pool is engine.decoders.latency_session
    assert step.size == 2
    device.end(step)
    for ask in asks:
        ask.cancel()
    engine.close()


async def test_greedy_and_beam_steps_fetch_no_log_probabilities() -> None:
    graphs = Graphs()
    async with running(graphs) as engine:
        await asyncio.gather(
            caption(engine, picture(1), DecodeOptions(max_tokens=9, min_tokens=9)),
            caption(engine, picture(2), DecodeOptions(max_tokens=9, beam_width=10)),
        )
        assert set(graphs.asked) == {(False, False)}
        await caption(engine, picture(2), DecodeOptions(max_tokens=9, temperature=1.0, attention=True))
        assert graphs.asked[-1] == (True, True)


async def test_the_time_of_encoding_is_learnt() -> None:
    """Or deadlines would be judged by a table that was measured before the machine became slow."""

    class Slow(Language):
        def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
            device.ns += 20_000_000
            return super().encode(images)

    device = Hand(1, random.Random(0))
    engine = caption_engine(Slow(), device)
    before_ns = engine.encoders.table.cost_ns(1)
    for number in range(5):
        ask = asyncio.ensure_future(caption(engine, picture(number), DecodeOptions(max_tokens=2)))
        while not ask.done():
            await asyncio.sleep(0)
            device.turn(engine)
            await asyncio.sleep(0)
    assert engine.encoders.table.cost_ns(1) > 1.2 * before_ns
    engine.close()


async def test_a_picture_without_room_for_its_words_keeps_no_lane_awake() -> None:
    device = Hand(3, random.Random(0))
    engine = caption_engine(Language(), device, slots=2, instances=3)
    asks = [asyncio.ensure_future(caption(engine, picture(n), DecodeOptions(max_tokens=9))) for n in range(3)]
    await asyncio.sleep(0)
    encoding = device.begin(engine)
    assert (len(encoding), engine.queued_rows()) == (2, 1)
    assert engine.ready_at_ns() is None
    engine.close()
    for job in encoding:
        device.end(job)
    results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_words_come_before_the_caption_is_finished() -> None:
    graphs = Graphs()
    options = DecodeOptions(max_tokens=24, min_tokens=24)
    async with running(graphs) as engine:
        seen: list[int] = []
        when: list[bool] = []
        ask = asyncio.ensure_future(
            caption(engine, picture(8), options, lambda w: (seen.extend(t.id for t in w), when.append(ask.done())))
        )
        captioned = await ask
        assert len(when) == len([token for token in seen if token != END]) == len(captioned.ranked[0][0].shown())
        assert not any(when)


@pytest.mark.parametrize("width", [1, 3])
async def test_each_captions_first_word_is_counted_once(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether anybody hears words or not, by the time from its arrival."""
    first_words: list[int] = []
    monkeypatch.setattr(ModelStats, "first_word", lambda _, ns: first_words.append(ns))
    device = Hand(1, random.Random(0))
    engine = caption_engine(Language(), device)
    options = DecodeOptions(max_tokens=12, min_tokens=12, beam_width=width)
    heard: list[object] = []
    for on_words in (None, heard.append):
        device.ns += 10**9
        ask = asyncio.ensure_future(caption(engine, picture(8), options, on_words))
        while not ask.done():
            await asyncio.sleep(0)
            device.turn(engine)
            await asyncio.sleep(0)
    assert len(heard) > 1
    assert len(first_words) == 2
    assert all(500_000 < ns < 4_000_000 for ns in first_words), "an encoding, and few steps"
    engine.close()


@pytest.mark.parametrize(("waited_ns", "goes_first"), [(2_000_000_000, "classifier"), (1_000_000, "words")])
async def test_words_go_before_others_work_unless_that_has_waited_longer(waited_ns: int, goes_first: str) -> None:
    """A caption under way has its next word due a step after the last; a request, a second after it came."""
    clock, order = Clock(), []

    class Noted(Graphs):
        def step(self, *arrays: object, **wanted: bool) -> Step:
            order.append("words")
            return super().step(*arrays, **wanted)

    def classify(feeds: Mapping[str, np.ndarray]) -> Tensors:
        order.append("classifier")
        return {"y": feeds["x"]}

    graphs = Noted()
    graphs.free.clear()
    async with running(graphs, clock=clock) as engine:
        pool = SessionPool(classify, LatencyTable({1: 1e6}))
        other = TensorEngine(InstanceGroup.single(pool), engine.device, Metrics().model("c", 1), max_queue_rows=9)
        asks = [asyncio.ensure_future(caption(engine, picture(1), DecodeOptions(max_tokens=9, min_tokens=9)))]
        await until(lambda: order == ["words"])
        asks.append(asyncio.ensure_future(infer(other, {"x": np.zeros((1, 1))})))
        await until(lambda: other.queued_rows() == 1)
        clock.ns += waited_ns
        # It makes the words that wait no less urgent.
        asks.append(asyncio.ensure_future(caption(engine, picture(2), DecodeOptions(max_tokens=9))))
        await until(lambda: engine.queued_rows() == 1)
        graphs.free.set()
        await asyncio.gather(*asks)
        other.close()
    assert order[1] == goes_first
