"""Predicted time of captions against the actual time, on a clock that advances by the latency tables' costs."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning import schedule
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import CaptionCost, CaptionWork
from resonnx_server.errors import BadImage, WaitTooLong
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.device import Job

from ...conftest import examples
from ..asking import caption
from ..hand import Hand, caption_engine
from ..language import Language, picture

WIDTHS = [1, 1, 2, 3, 5, 10]


class Timed(Hand):
    """Its clock moves while graphs run."""

    def __init__(self) -> None:
        super().__init__(1, random.Random(0))

    def end(self, job: Job) -> None:
        """Let a job end; its run has moved the clock."""
        job.run()
        with self.lock:
            job.finish()
        self._jobs.remove(job)


class Taking(Language):
    """The language; encoding and steps take the costs of `caption_engine`'s tables."""

    def __init__(self, device: Timed) -> None:
        super().__init__()
        self._device = device

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        self._device.ns += 1_000_000 * len(images)
        return super().encode(images)

    def step(self, tokens: np.ndarray, *arrays: Any, **wanted: bool) -> Step:
        self._device.ns += 1_000_000 + 10_000 * len(tokens)
        return super().step(tokens, *arrays, **wanted)


@pytest.fixture(autouse=True)
def _free_handling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only graphs take time here, until handling is measured."""
    monkeypatch.setattr(schedule, "_HANDLING_ROW_NS", 1.0)


def _of_length(length: int, width: int) -> DecodeOptions:
    return DecodeOptions(max_tokens=length, min_tokens=length, beam_width=width)


async def _turn(device: Timed, engine: CaptionEngine) -> None:
    await asyncio.sleep(0)
    device.turn(engine)
    await asyncio.sleep(0)


async def _until(task: "asyncio.Future[Any]", device: Timed, engine: CaptionEngine) -> int:
    """Return how long it takes until a caption is there, ns."""
    start = device.ns
    await asyncio.sleep(0)
    while not task.done():
        await _turn(device, engine)
    return device.ns - start


async def _ratio(seed: int, width: int | None, before: int, **settings: Any) -> float:
    """Return how long a caption takes that comes behind `before` others, by how long it should."""
    rng, device = random.Random(seed), Timed()
    engine = caption_engine(Taking(device), device, **settings)

    def options() -> DecodeOptions:
        return _of_length(rng.randrange(4, 24), width or rng.choice(WIDTHS))

    tasks = []
    for number in range(before):
        tasks.append(asyncio.ensure_future(caption(engine, picture(number), options())))
        if rng.random() < 0.3:
            # Some are under way when others come.
            await _turn(device, engine)
    await asyncio.sleep(0)
    own = options()
    with device.lock:
        expected_ns = engine._forecast.wait_ns(CaptionCost(1, own), 4)
    tasks.append(asyncio.ensure_future(caption(engine, picture(before), own)))
    took_ns = await _until(tasks[-1], device, engine)
    engine.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took_ns / expected_ns


@examples(40)
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 10, None]), st.integers(0, 80), st.integers(10, 40))
def test_a_caption_takes_as_long_as_expected_whatever_goes_before(
    seed: int, width: int | None, before: int, slots: int
) -> None:
    assert 0.6 < asyncio.run(_ratio(seed, width, before, slots=slots)) < 1.6


@pytest.mark.parametrize("width", [1, 5, 10])
async def test_hundred_captions_of_any_width_are_waited_for_to_the_point(width: int) -> None:
    assert 0.9 < await _ratio(0, width, 100) < 1.1


async def test_steps_are_learnt_where_requests_leave_them_open() -> None:
    device = Timed()
    engine = caption_engine(Taking(device), device)
    free = DecodeOptions(max_tokens=24)
    expected, took = [], []
    for number in range(150):
        with device.lock:
            expected.append(engine._forecast.wait_ns(CaptionCost(1, free), 4))
        took.append(await _until(asyncio.ensure_future(caption(engine, picture(number), free)), device, engine))
    assert sum(expected[50:]) == pytest.approx(sum(took[50:]), rel=0.2)
    assert expected[0] > 1.3 * sum(took) / len(took), "at first, half of the most"
    engine.close()


async def test_a_captions_own_time_has_what_handling_its_rows_takes() -> None:
    device = Timed()
    engine = caption_engine(Taking(device), device)
    options = _of_length(10, 5)
    cost = CaptionCost(1, options)
    graphs_ns = engine._forecast.own_ns(cost)
    for _ in range(500):
        engine.schedule.end_step([], 5, 5 * 20_000)
    handling_ns = engine._forecast.own_ns(cost) - graphs_ns
    assert handling_ns == pytest.approx(10 * 5 * 20_000, rel=0.01)
    engine.close()


async def test_captions_that_have_a_slot_one_after_the_other_take_their_sum() -> None:
    device = Timed()
    engine = caption_engine(Taking(device), device, slots=1)
    options = _of_length(10, 1)
    alone_ns = engine._forecast.own_ns(CaptionCost(1, options))
    assert engine._forecast.own_ns(CaptionCost(3, options)) == pytest.approx(3 * alone_ns)
    engine.close()


async def test_encoding_beside_steps_is_not_counted_twice() -> None:
    """60 pictures take 60 ms; their captions, of ten beams each, five times as long."""
    expected = {}
    for instances in (1, 2):
        device = Timed()
        device.lanes = instances
        engine = caption_engine(Taking(device), device, instances=instances)
        tasks = [asyncio.ensure_future(caption(engine, picture(n), _of_length(12, 10))) for n in range(60)]
        await asyncio.sleep(0)
        with device.lock:
            expected[instances] = engine._forecast.wait_ns(CaptionCost(1, _of_length(12, 1)), 4)
        engine.close()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert expected[1] > 6 * 60e6
    assert expected[2] == pytest.approx(expected[1] - 60e6, abs=2e6)


async def test_later_and_less_important_captions_are_not_waited_for() -> None:
    device = Timed()
    engine = caption_engine(Taking(device), device)
    options = _of_length(12, 5)

    def expected(priority: int) -> float:
        with device.lock:
            return engine._forecast.wait_ns(CaptionCost(1, options), priority)

    idle = expected(4)
    tasks = [asyncio.ensure_future(caption(engine, picture(n), options, priority=5)) for n in range(60)]
    await asyncio.sleep(0)
    assert expected(4) == idle
    assert expected(5) == expected(8) > 8 * idle
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert expected(8) == idle, "cancelled captions are not waited for"
    engine.close()


async def test_reserved_pictures_are_waited_for_with_their_beams() -> None:
    """As if they were here, from the reservation on, until they come or fail; of one request, no more than a batch."""
    device = Timed()
    engine = caption_engine(Taking(device), device)
    decoding = Decoding(1e6, 1e6)

    def expected(options: DecodeOptions) -> float:
        with device.lock:
            return engine._forecast.wait_ns(CaptionCost(1, options), 4)

    for width in (1, 10):
        options = _of_length(12, width)
        idle = expected(options)
        here = [asyncio.ensure_future(caption(engine, picture(n), options)) for n in range(16)]
        await asyncio.sleep(0)
        as_if_here = expected(options)
        for task in here:
            task.cancel()
        await asyncio.gather(*here, return_exceptions=True)
        with suppress(BadImage), engine.reserve(CaptionCost(16, options), decoding=decoding) as reservation:
            reserved = expected(options)
            assert reserved == pytest.approx(as_if_here)
            work = [CaptionWork(picture(n), options) for n in range(10)]
            tasks = [asyncio.ensure_future(engine.submit(each, reservation)) for each in work]
            await asyncio.sleep(0)
            assert expected(options) == pytest.approx(reserved), "ten have come, and six are still to come"
            raise BadImage("image", "the others are none")
        there = expected(options)
        assert idle < there < reserved
        await _until(asyncio.gather(*tasks), device, engine)
        assert expected(options) == pytest.approx(idle, rel=1e-4)
        with engine.reserve(CaptionCost(100, options), decoding=decoding):
            assert expected(options) == pytest.approx(reserved, rel=1e-4)
        assert expected(options) == pytest.approx(idle, rel=1e-4)
    engine.close()


async def test_wide_beams_before_it_refuse_what_narrow_ones_would_not() -> None:
    """60 captions of 12 tokens: 24 steps of up to 32 rows for one beam each, and 240 of 30 rows for ten."""
    options = _of_length(12, 1)
    for width, is_refused in ((1, False), (10, True)):
        device = Timed()
        engine = caption_engine(Taking(device), device)
        tasks = [asyncio.ensure_future(caption(engine, picture(n), _of_length(12, width))) for n in range(60)]
        await asyncio.sleep(0)
        last = asyncio.ensure_future(caption(engine, picture(99), options, deadline_ns=150_000_000))
        await _until(asyncio.gather(*tasks), device, engine)
        if is_refused:
            assert isinstance(last.exception(), WaitTooLong)
        else:
            assert last.exception() is None
        engine.close()


async def test_the_cost_of_rows_beside_the_graph_is_learnt() -> None:
    """Searches and the like: here as much as the graph's run."""
    device = Timed()
    graphs = Taking(device)
    engine = caption_engine(graphs, device)
    options = _of_length(20, 1)
    advance = engine.slots.advance

    def slow(*arguments: Any) -> None:
        device.ns += 1_010_000
        advance(*arguments)

    engine.slots.advance = slow  # type: ignore[method-assign]
    for number in range(8):
        took = await _until(asyncio.ensure_future(caption(engine, picture(number), options)), device, engine)
    with device.lock:
        assert engine._forecast.wait_ns(CaptionCost(1, options), 4) == pytest.approx(took, rel=0.1)
    engine.close()


async def test_length_limits_of_requests_do_not_change_the_learnt_length() -> None:
    device = Timed()
    engine = caption_engine(Taking(device), device)

    async def ask(number: int, least: int, most: int) -> int:
        task = asyncio.ensure_future(caption(engine, picture(number), DecodeOptions(min_tokens=least, max_tokens=most)))
        await _until(task, device, engine)
        return len(task.result().ranked[0][0].tokens)

    def expected() -> int:
        return engine._forecast.steps(DecodeOptions(max_tokens=1000))

    natural = [await ask(number, 0, 1000) for number in range(200)]
    length = expected()
    assert min(natural) < length < max(natural)
    for number in range(60):
        await ask(number, 0, 1)
    assert length <= expected() <= length + 1, "one word was all that was wanted"
    for number in range(60):
        await ask(number, 24, 24)
        await ask(number, 23, 1000)
    assert length <= expected() <= length + 1, "they had to go on"
    for number in range(100):
        await ask(number, 2, 500)
    assert abs(expected() - length) <= 3, "others still teach"
    engine.close()
