"""What fails, fails alone: a picture, a step, a value, a listener, a figure of the metrics."""

import asyncio
import gc
import logging
import random
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from resonnx_server.captioning.request import Captioned
from resonnx_server.errors import (
    InferenceFailed,
    ServerError,
)
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.graphs import Step

from ..asking import caption
from ..hand import Hand, caption_engine
from ..language import Language, alone, ids, picture, spec
from ..waiting import until
from .graphs import POISON, Graphs, running


async def test_poisoned_picture_fails_alone() -> None:
    graphs = Graphs()
    graphs.free.clear()
    async with running(graphs) as engine:
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
    async with running(graphs) as engine:
        results = await asyncio.gather(
            *(caption(engine, picture(n), DecodeOptions(max_tokens=9)) for n in (2, 3, 4)), return_exceptions=True
        )
    assert isinstance(results[1], InferenceFailed)
    assert not isinstance(results[0], Exception)
    assert not isinstance(results[2], Exception)


async def test_a_caller_of_what_is_no_number_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs()
    graphs.table[:] = np.nan
    began = time.monotonic()
    async with running(graphs) as engine:
        for _ in range(50):
            with pytest.raises(InferenceFailed):
                await caption(engine, picture(3), DecodeOptions(max_tokens=9))
    assert len(caplog.records) <= 1 + (time.monotonic() - began)


async def test_a_caller_whose_words_cannot_be_delivered_affects_no_other() -> None:
    graphs = Graphs()
    options = DecodeOptions(max_tokens=24, min_tokens=24)

    def fails(_: object) -> None:
        raise RuntimeError("words of another shape than promised")

    async with running(graphs) as engine:
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
    async with running(graphs) as engine:
        asks = [caption(engine, picture(n), DecodeOptions(max_tokens=9, min_tokens=9, beam_width=3)) for n in range(5)]
        captions = await asyncio.wait_for(asyncio.gather(*asks), 10)
    assert all(isinstance(captioned, Captioned) for captioned in captions)
    assert counter == "batch_done" or "batch_done" in counted
    assert counter == "first_word" or counted.count("first_word") == 5
    assert counter == "step_done" or counted.count("step_done") == len(graphs.steps)


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
        async with running(Broken()) as engine:
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
