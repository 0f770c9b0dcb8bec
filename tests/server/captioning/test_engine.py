"""The decode loop on its real threads, and step by step under an injected clock: every caption is its own."""

import asyncio
import gc
import logging
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.encoding import EncodeJob
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import Captioned
from resonnx_server.captioning.stepping import StepJob
from resonnx_server.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    Overloaded,
    ServerError,
    Unavailable,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import examples
from ..asking import caption, infer
from ..hand import Hand, any_options, caption_engine
from ..language import END, Language, alone, ids, picture, spec
from ..waiting import Clock, until

POISON = 65_535


class Graphs(Language):
    """The language, which can be held up, and fails on one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        if (images[:, 0, 0, :2] == 255).all(axis=1).any():
            raise RuntimeError("poisoned picture")
        return super().encode(images)

    def step(self, *arrays: object, **wanted: bool) -> Step:
        self.free.wait(10)
        return super().step(*arrays, **wanted)


@asynccontextmanager
async def _engine(
    graphs: Graphs, lanes: int = 1, clock: Callable[[], int] = time.monotonic_ns, **settings: object
) -> AsyncIterator[CaptionEngine]:
    device = Device("test", lanes, clock)
    engine = caption_engine(graphs, device, **settings)
    try:
        yield engine
    finally:
        engine.close()
        graphs.free.set()
        device.close()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("instances", [1, 2, 3])
async def test_every_caption_is_its_own(lanes: int, instances: int) -> None:
    rng = random.Random(5)
    graphs = Graphs()
    async with _engine(graphs, lanes, instances=instances) as engine:

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
    async with _engine(graphs) as engine:
        await asyncio.gather(
            caption(engine, picture(1), DecodeOptions(max_tokens=9, min_tokens=9)),
            caption(engine, picture(2), DecodeOptions(max_tokens=9, beam_width=10)),
        )
        assert set(graphs.asked) == {(False, False)}
        await caption(engine, picture(2), DecodeOptions(max_tokens=9, temperature=1.0, attention=True))
        assert graphs.asked[-1] == (True, True)


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_half_cancelled_leave_no_slot_and_change_no_caption(count: int) -> None:
    rng = random.Random(6)
    graphs = Graphs()
    room = asyncio.Semaphore(600)
    async with _engine(graphs, lanes=2) as engine:

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


async def test_poisoned_picture_fails_alone() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with _engine(graphs) as engine:
        first = asyncio.ensure_future(caption(engine, picture(1), DecodeOptions(max_tokens=9)))
        await until(lambda: engine.schedule.active.rows == 1)
        asks = [asyncio.ensure_future(caption(engine, picture(n), DecodeOptions(max_tokens=9))) for n in (5, POISON, 7)]
        await until(lambda: engine.queued_rows() == 3)
        graphs.free.set()
        results = await asyncio.gather(*asks, return_exceptions=True)
        await first
    assert isinstance(results[1], InferenceFailed)
    assert all(not isinstance(results[i], Exception) for i in (0, 2))


async def test_values_that_are_no_numbers_fail_their_caption_alone() -> None:
    graphs = Graphs()
    graphs.table[graphs.encode(picture(3)[None])[0][0][0, 0] * 131 + 17 + 3 * 3 + 1] = np.nan
    async with _engine(graphs) as engine:
        results = await asyncio.gather(
            *(caption(engine, picture(n), DecodeOptions(max_tokens=9)) for n in (2, 3, 4)), return_exceptions=True
        )
    assert isinstance(results[1], InferenceFailed)
    assert not isinstance(results[0], Exception)
    assert not isinstance(results[2], Exception)


async def test_deadlines_are_refused_early_or_free_the_slot() -> None:
    graphs = Graphs()
    graphs.free.clear()
    clock = Clock()
    async with _engine(graphs, clock=clock) as engine:
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
    async with _engine(graphs, queue=2, slots=1) as engine:
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
    async with _engine(graphs) as engine:
        seen: list[int] = []
        when: list[bool] = []
        ask = asyncio.ensure_future(
            caption(engine, picture(8), options, lambda w: (seen.extend(t.id for t in w), when.append(ask.done())))
        )
        captioned = await ask
        assert len(when) == len([token for token in seen if token != END]) == len(captioned.ranked[0][0].shown())
        assert not any(when)


async def test_a_caller_whose_words_cannot_be_delivered_affects_no_other() -> None:
    graphs = Graphs()
    options = DecodeOptions(max_tokens=24, min_tokens=24)

    def fails(_: object) -> None:
        raise RuntimeError("words of another shape than promised")

    async with _engine(graphs) as engine:
        asks = [
            asyncio.ensure_future(caption(engine, picture(8), options, on_words)) for on_words in (fails, None, fails)
        ]
        results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
        await until(lambda: engine.schedule.active.rows == 0)
    assert [type(result) for result in results] == [ServerError, Captioned, ServerError]


@pytest.mark.parametrize("counter", ["batch_done", "step_done", "first_word"])
async def test_captions_are_answered_and_counted_though_one_figure_fails(
    counter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    for name in ("batch_done", "step_done", "first_word"):
        monkeypatch.setattr(ModelStats, name, lambda *_, name=name: 1 / 0 if name == counter else counted.append(name))
    graphs = Graphs()
    async with _engine(graphs) as engine:
        asks = [caption(engine, picture(n), DecodeOptions(max_tokens=9, min_tokens=9, beam_width=3)) for n in range(5)]
        captions = await asyncio.wait_for(asyncio.gather(*asks), 10)
    assert all(isinstance(captioned, Captioned) for captioned in captions)
    assert counter == "batch_done" or "batch_done" in counted
    assert counter == "first_word" or counted.count("first_word") == 5
    assert counter == "step_done" or counted.count("step_done") == len(graphs.steps)


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


class Watched(np.ndarray):
    """A picture that may be watched."""


@pytest.mark.parametrize("fails", ["encode", "step", "no number", "advance", "on_words"])
@pytest.mark.parametrize("is_kept", [False, True])
async def test_failed_captions_are_forgotten_at_once(
    fails: str, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for garbage to be collected, which is rare in a server; errors, if kept, keep nothing else."""

    class Broken(Graphs):
        def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
            if fails == "encode":
                raise InferenceFailed("its frames hold all pictures")
            return super().encode(images)

        def step(self, *arrays: object, **wanted: bool) -> Step:
            if fails == "step":
                raise InferenceFailed("so does this")
            step = super().step(*arrays, **wanted)
            return replace(step, top_log_probs=step.top_log_probs * np.nan) if fails == "no number" else step

    def broken(*_: object) -> None:
        raise RuntimeError("and this")

    if fails == "advance":
        monkeypatch.setattr(Greedy, "advance", broken)
    # What is logged is kept, frames and all, by the test runner.
    for module in ("encoding", "stepping", "request"):
        monkeypatch.setattr(logging.getLogger(f"resonnx_server.captioning.{module}"), "disabled", True)
    watched, kept = [], []
    options = DecodeOptions(max_tokens=9, min_tokens=9)
    gc.disable()
    try:
        async with _engine(Broken()) as engine:
            for number in range(4):
                image = picture(number).view(Watched)
                watched.append(weakref.ref(image))
                with pytest.raises(ServerError) as failed:
                    await caption(engine, image, options, broken if fails == "on_words" else None)
                if is_kept:
                    kept.append(failed.value.with_traceback(None))
                del image, failed
            # The lane lets go of the last job when it looks for the next.
            await until(lambda: not any(each() is not None for each in watched))
    finally:
        gc.enable()


async def test_a_row_that_a_step_failed_on_is_not_run_again() -> None:
    """Not even to pad the steps of those that go on."""
    failed: list[int] = []

    class Choosy(Language):
        def step(self, tokens: np.ndarray, state: object, features: list[np.ndarray], **wanted: bool) -> Step:
            step = super().step(tokens, state, features, **wanted)
            if (features[0] == POISON).any():
                failed.append(len(tokens))
                raise RuntimeError("a poisoned row")
            return step

    graphs, device = Choosy(), Hand(1, random.Random(0))
    engine = caption_engine(graphs, device)
    options = DecodeOptions(max_tokens=12, min_tokens=12)
    asks = [asyncio.ensure_future(caption(engine, picture(n), options)) for n in (0, 1, 2, 3, 4, POISON)]
    while not all(ask.done() for ask in asks):
        await asyncio.sleep(0)
        device.turn(engine)
        await asyncio.sleep(0)
    assert isinstance(asks.pop().exception(), InferenceFailed)
    assert failed == [6, 1], "with all others, and by itself"
    assert graphs.steps.count(6) > 10, "five rows, padded"
    for number, ask in enumerate(asks):
        found = [[token.id for token in sequence.tokens] for sequence, _ in ask.result().ranked]
        assert found == ids(alone(Language(), picture(number), spec(), options))
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
    async with _engine(graphs, clock=clock) as engine:
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
