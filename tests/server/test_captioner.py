"""The decode loop on its real threads, and step by step under an injected clock: every caption is its own."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resonnx_server.engine.caption_jobs import EncodeJob, StepJob
from resonnx_server.engine.caption_task import Captioned
from resonnx_server.engine.captioner import CaptionEngine
from resonnx_server.engine.device import Device, Job
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.measurement import sizes_up_to
from resonnx_server.engine.runner import AnyRunners, Runner, Runners
from resonnx_server.engine.slots import Slots
from resonnx_server.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    Overloaded,
    ServerError,
    Unavailable,
)
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.search import DecodeOptions

from .language import END, Language, alone, ids, picture, spec
from .waiting import Clock, until

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


def _make(
    graphs: Language, device: Device, queue: int = 5000, slots: int = 32, instances: int = 1, **settings: object
) -> CaptionEngine:
    encode_costs = {size: 1e6 * size for size in sizes_up_to(16)}
    step_costs = {size: 1e6 + 1e4 * size for size in sizes_up_to(slots)}

    def runners(run: Callable[..., object], costs: dict[int, float], instances: int) -> AnyRunners:
        if instances == 1:
            return Runners.single(Runner(run, LatencyTable(costs)))
        alone = LatencyTable({size: ns * 0.7 for size, ns in costs.items()})
        return Runners(Runner(run, alone, has_all_cores=True), Runner(run, LatencyTable(costs)), instances)

    return CaptionEngine(
        spec(),
        runners(graphs.encode, encode_costs, instances),
        runners(graphs.step, step_costs, instances),
        Slots(slots, [np.zeros((1, 1), np.int64)], [np.zeros((1, 1), np.int64)]),
        device,
        Metrics().model("m", 1),
        max_queue_rows=queue,
        **settings,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def _engine(
    graphs: Graphs, lanes: int = 1, clock: Callable[[], int] = time.monotonic_ns, **settings: object
) -> AsyncIterator[CaptionEngine]:
    device = Device("test", lanes, clock)
    engine = _make(graphs, device, **settings)
    try:
        yield engine
    finally:
        engine.close()
        graphs.free.set()
        device.close()


def _options(rng: random.Random) -> DecodeOptions:
    """A request as some caller might make it."""
    most = rng.randrange(1, 25)
    shared = {"max_tokens": most, "min_tokens": rng.randrange(most + 1), "attention": rng.random() < 0.2}
    if rng.random() < 0.2:
        shared["forbidden"] = frozenset(rng.sample(range(2, 40), rng.randrange(20)))
    kind = rng.random()
    if kind < 0.4:
        return DecodeOptions(**shared)
    if kind < 0.6:
        top_k = rng.choice([0, 5, 30])
        return DecodeOptions(**shared, temperature=rng.random() + 0.1, top_k=top_k, seed=rng.getrandbits(64))
    width = rng.randrange(2, 11)
    return DecodeOptions(**shared, beam_width=width, captions=rng.randrange(1, width + 1))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(
    ("policy", "instances"), [("continuous", 1), ("continuous", 2), ("continuous", 3), ("one", 1), ("rigid", 1)]
)
async def test_every_caption_is_its_own(lanes: int, policy: str, instances: int) -> None:
    rng = random.Random(5)
    graphs = Graphs()
    async with _engine(graphs, lanes, policy=policy, instances=instances) as engine:

        async def ask(number: int) -> None:
            options = _options(rng)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            seen: list[int] = []
            listen = (lambda words: seen.extend(token.id for token in words)) if rng.random() < 0.5 else None
            captioned = await engine.submit(picture(number), options, listen)
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

        count = 60 if policy == "one" else 300
        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(count))), 100)
        await until(lambda: engine.active_rows() == 0)
        assert engine.queued_rows() == len(engine.slots) == 0
        assert engine.stats.tokens > 0
    if policy != "one":
        assert max(graphs.steps) > 8, "captions share steps"


class _Hand(Device):
    """A device whose lanes are the test, with a clock that stands still in between. Jobs end in any order."""

    def __init__(self, lanes: int, rng: random.Random) -> None:
        super().__init__("hand", 0, self._now)
        self.lanes = lanes
        self.ns = 0
        self.most_at_once = 0
        self._jobs: list[Job] = []
        self._rng = rng

    def _now(self) -> int:
        return self.ns

    def idle_lanes(self) -> int:
        return self.lanes - len(self._jobs)

    def begin(self, engine: CaptionEngine) -> list[Job]:
        """Let idle lanes look for work; return the jobs that they took."""
        begun: list[Job] = []
        while self.idle_lanes():
            with self.lock:
                at = engine.ready_at_ns()
                job = engine.take(self.ns, None) if at is not None and at <= self.ns else None
            if job is None:
                break
            self._jobs.append(job)
            begun.append(job)
        self.most_at_once = max(self.most_at_once, len(self._jobs))
        return begun

    def end(self, job: Job) -> None:
        """Let a job end, after its cost."""
        job.run()
        self._jobs.remove(job)
        self.ns += int(job.cost_ns)

    def turn(self, engine: CaptionEngine) -> None:
        """Let idle lanes begin, and one job end, if there is one."""
        self.begin(engine)
        if self._jobs:
            self.end(self._rng.choice(self._jobs))
        else:
            self.ns += 1_000_000


@settings(max_examples=80)
@given(
    st.integers(0, 2**32),
    st.sampled_from([("continuous", 1), ("continuous", 2), ("continuous", 3), ("rigid", 1), ("one", 1)]),
    st.integers(10, 40),
)
def test_any_schedule_gives_the_captions_of_one_at_a_time(seed: int, how: tuple[str, int], slots: int) -> None:
    """Mixed widths, lengths and arrival times, cancelled at any moment: 35 requests a schedule."""
    rng = random.Random(seed)
    language = Language()
    policy, instances = how

    async def run() -> None:
        device = _Hand(rng.randrange(instances, instances + 2), rng)
        engine = _make(language, device, slots=slots, policy=policy, instances=instances)
        asked = []
        for number in range(35):
            options = _options(rng)
            at = rng.randrange(100) * 1_000_000
            leaves = at + rng.randrange(60) * 1_000_000 if rng.random() < 0.3 else None
            asked.append((at, leaves, number, options))
        tasks: dict[int, asyncio.Task] = {}
        while len(tasks) < len(asked) or not all(task.done() for task in tasks.values()):
            for at, leaves, number, options in asked:
                if at <= device.ns and number not in tasks:
                    tasks[number] = asyncio.ensure_future(engine.submit(picture(number), options))
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
        assert len(engine.slots) == engine.queued_rows() == engine.active_rows() == 0
        assert device.most_at_once <= instances, "at most so many at once, a step among them"

    asyncio.run(run())


async def test_words_go_on_while_others_are_encoded() -> None:
    """With two at once, a picture is encoded beside the steps of captions under way, and by itself has the device."""
    language = Language()
    device = _Hand(2, random.Random(0))
    engine = _make(language, device, instances=2)

    options = DecodeOptions(max_tokens=20, min_tokens=20)
    asks = [asyncio.ensure_future(engine.submit(picture(1), options))]
    await asyncio.sleep(0)
    (first,) = device.begin(engine)
    assert isinstance(first, EncodeJob)
    assert first.runner is engine.encoders.alone
    asks.append(asyncio.ensure_future(engine.submit(picture(2), options)))
    await asyncio.sleep(0)
    assert not device.begin(engine), "it has all cores"
    device.end(first)
    encode, step = device.begin(engine)
    assert isinstance(encode, EncodeJob)
    assert isinstance(step, StepJob)
    assert encode.runner is engine.encoders.shared
    assert step.runner is engine.decoders.shared
    for _ in range(3):
        device.end(step)
        (step,) = device.begin(engine)
        assert isinstance(step, StepJob), "the picture is still being encoded"
    device.end(encode)
    assert not device.begin(engine), "one step at a time"
    device.end(step)
    (step,) = device.begin(engine)
    assert isinstance(step, StepJob)
    assert step.runner is engine.decoders.alone
    assert step.size == 2
    device.end(step)
    for ask in asks:
        ask.cancel()
    engine.close()


async def test_greedy_and_beam_steps_fetch_no_log_probabilities() -> None:
    graphs = Graphs()
    async with _engine(graphs) as engine:
        await asyncio.gather(
            engine.submit(picture(1), DecodeOptions(max_tokens=9, min_tokens=9)),
            engine.submit(picture(2), DecodeOptions(max_tokens=9, beam_width=10)),
        )
        assert set(graphs.asked) == {(False, False)}
        await engine.submit(picture(2), DecodeOptions(max_tokens=9, temperature=1.0, attention=True))
        assert graphs.asked[-1] == (True, True)


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_half_cancelled_leave_no_slot_and_change_nobody(count: int) -> None:
    rng = random.Random(6)
    graphs = Graphs()
    room = asyncio.Semaphore(600)
    async with _engine(graphs, lanes=2) as engine:

        async def ask(i: int) -> None:
            async with room:
                await one(i)

        async def one(i: int) -> None:
            options = _options(rng)
            task = asyncio.ensure_future(engine.submit(picture(i), options))
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
        await until(lambda: engine.active_rows() == 0 and len(engine.slots) == 0)
        assert engine.queued_rows() == 0


async def test_poisoned_picture_fails_alone() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with _engine(graphs) as engine:
        first = asyncio.ensure_future(engine.submit(picture(1), DecodeOptions(max_tokens=9)))
        await until(lambda: engine.active_rows() == 1)
        asks = [asyncio.ensure_future(engine.submit(picture(n), DecodeOptions(max_tokens=9))) for n in (5, POISON, 7)]
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
            *(engine.submit(picture(n), DecodeOptions(max_tokens=9)) for n in (2, 3, 4)), return_exceptions=True
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
            await engine.submit(picture(1), DecodeOptions(max_tokens=24), deadline_ns=5_000_000)
        deadline = 60_000_000
        options = DecodeOptions(max_tokens=24, min_tokens=24)
        ask = asyncio.ensure_future(engine.submit(picture(1), options, deadline_ns=deadline))
        await until(lambda: engine.active_rows() == 1)
        clock.ns = deadline + 1
        graphs.free.set()
        with pytest.raises(DeadlineExceeded):
            await ask
        await until(lambda: engine.active_rows() == 0)


async def test_full_queue_refuses_and_closing_answers_everybody() -> None:
    graphs = Graphs()
    graphs.free.clear()
    options = DecodeOptions(max_tokens=24, min_tokens=24)
    async with _engine(graphs, queue=2, slots=1) as engine:
        asks = [asyncio.ensure_future(engine.submit(picture(1), options))]
        await until(lambda: engine.active_rows() == 1)
        asks += [asyncio.ensure_future(engine.submit(picture(1), options)) for _ in range(2)]
        await until(lambda: engine.queued_rows() == 2)
        with pytest.raises(Overloaded):
            await engine.submit(picture(1), options)
    results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_words_come_before_the_caption_is_finished() -> None:
    graphs = Graphs()
    options = DecodeOptions(max_tokens=24, min_tokens=24)
    async with _engine(graphs) as engine:
        seen: list[int] = []
        when: list[bool] = []
        ask = asyncio.ensure_future(
            engine.submit(picture(8), options, lambda w: (seen.extend(t.id for t in w), when.append(ask.done())))
        )
        captioned = await ask
        assert len(when) == len([token for token in seen if token != END]) == len(captioned.ranked[0][0].shown())
        assert not any(when)


async def test_a_caller_whose_words_cannot_be_told_hurts_nobody_else() -> None:
    graphs = Graphs()
    options = DecodeOptions(max_tokens=24, min_tokens=24)

    def fails(_: object) -> None:
        raise RuntimeError("words of another shape than promised")

    async with _engine(graphs) as engine:
        asks = [
            asyncio.ensure_future(engine.submit(picture(8), options, on_words)) for on_words in (fails, None, fails)
        ]
        results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 10)
        await until(lambda: engine.active_rows() == 0)
    assert [type(result) for result in results] == [ServerError, Captioned, ServerError]
