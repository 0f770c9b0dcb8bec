"""Failures on the engine's real threads: what fails, fails its own request."""

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
from resonnx_server.errors import (
    InferenceFailed,
)
from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.session_pool import Tensors

from ..asking import infer
from ..waiting import until
from .doubling import Doubling, rows_of, running_engine


async def test_poisoned_member_fails_alone() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        first = asyncio.ensure_future(infer(engine, rows_of(0)))
        await until(lambda: runtime.entered == 1)
        asks = [asyncio.ensure_future(infer(engine, rows_of(value))) for value in (1, 2, -1, 4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        await first
        results = await asyncio.gather(*asks, return_exceptions=True)
    assert [r[0]["y"].item() for i, r in enumerate(results) if i != 2] == [2, 4, 8]
    assert runtime.sizes == [1, 4, 2, 2, 1, 1], "halves, as far as needed"
    assert isinstance(results[2], InferenceFailed)
    assert "poisoned" not in results[2].message


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("error", [RuntimeError, InferenceFailed])
@pytest.mark.parametrize("has_cause", [False, True])
async def test_failed_requests_are_forgotten_at_once(
    rows: int, error: type[Exception], has_cause: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for garbage to be collected, which is rare in a server."""

    class Inputs(np.ndarray):
        """May be watched."""

    def fails(feeds: Mapping[str, np.ndarray]) -> None:
        raise ValueError("it holds everybody's inputs by its frames")

    def run(feeds: Mapping[str, np.ndarray]) -> Tensors:
        try:
            fails(feeds)
        except ValueError as cause:
            raise error("so does this") from (cause if has_cause else None)
        return {}

    watched: list[weakref.ref[Inputs]] = []
    told = []
    # What is logged is kept, frames and all, by the test runner.
    monkeypatch.setattr(logging.getLogger("resonnx_server.tensors.jobs"), "disabled", True)
    gc.disable()
    try:
        async with running_engine(run) as engine:
            for _ in range(5):
                inputs = np.zeros((rows, 1), np.int64).view(Inputs)
                watched.append(weakref.ref(inputs))
                with pytest.raises(InferenceFailed) as failed:
                    await infer(engine, {"x": inputs})
                if has_cause:
                    # Whoever keeps it, to tell it later, keeps nothing of where it came from.
                    told.append(failed.value.with_traceback(None))
                del inputs, failed
            await until(lambda: not any(each() is not None for each in watched))
    finally:
        gc.enable()


async def test_what_is_no_number_fails_its_request_alone_and_only_where_numbers_are_promised() -> None:
    """Of requests that share a batch, that run by themselves after it failed, and that several batches serve."""

    class Logs(Doubling):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            doubled = super().__call__(feeds)["y"].astype(np.float32)
            doubled[doubled == 0] = np.nan
            doubled[doubled == 2] = -np.inf
            return {"y": doubled, "z": np.zeros((len(doubled), 2, 2), np.float32)}

    requests = [
        rows_of(5),
        rows_of(0),
        rows_of(2, 3),
        rows_of(4, 1),
        rows_of(*range(2, 32), 0),
        rows_of(*range(7, 47)),
        rows_of(-1),
    ]
    for finite in (True, False):
        runtime = Logs()
        runtime.free.clear()
        async with running_engine(runtime, finite=finite) as engine:
            asks = [asyncio.ensure_future(infer(engine, rows_of(9)))]
            await until(lambda runtime=runtime: runtime.entered == 1)
            asks += [asyncio.ensure_future(infer(engine, rows)) for rows in requests]
            await until(lambda engine=engine: engine.queued_rows() == sum(len(rows["x"]) for rows in requests))
            runtime.free.set()
            answers = await asyncio.gather(*asks, return_exceptions=True)
        failed = [i for i, answer in enumerate(answers[1:]) if isinstance(answer, InferenceFailed)]
        assert failed == ([1, 3, 4, 6] if finite else [6])
        for rows, answer in zip(requests, answers[1:], strict=True):
            if not isinstance(answer, BaseException):
                wanted = rows["x"] * np.float32(2)
                wanted[wanted == 0] = np.nan
                wanted[wanted == 2] = -np.inf
                assert np.array_equal(answer[0]["y"], wanted, equal_nan=True)


async def test_a_caller_of_what_is_no_number_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def answers_nan(feeds: Mapping[str, np.ndarray]) -> Tensors:
        return {"y": np.full(feeds["x"].shape, np.nan, np.float32)}

    began = time.monotonic()
    async with running_engine(answers_nan, finite=True) as engine:
        for _ in range(50):
            with pytest.raises(InferenceFailed):
                await infer(engine, rows_of(1))
    assert len(caplog.records) <= 1 + (time.monotonic() - began)


async def test_an_answer_of_other_rows_than_asked_for_is_nobodys() -> None:
    class Short(Doubling):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            rows = super().__call__(feeds)["y"]
            return {"y": rows[: len(rows) - (feeds["x"] == 3).any()]}

    runtime = Short()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        asks = [asyncio.ensure_future(infer(engine, rows_of(0)))]
        await until(lambda: runtime.entered == 1)
        asks += [asyncio.ensure_future(infer(engine, rows_of(value))) for value in (1, 2, 3, 4)]
        await until(lambda: engine.queued_rows() == 4)
        runtime.free.set()
        answers = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(answers[3], InferenceFailed)
    assert [answer[0]["y"].item() for i, answer in enumerate(answers) if i != 3] == [0, 2, 4, 8]


async def test_answers_are_given_though_they_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_engine(Doubling()) as engine:
        monkeypatch.setattr(ModelStats, "batch_done", lambda *_: 1 / 0)
        assert (await infer(engine, rows_of(4)))[0]["y"].item() == 8


async def test_outputs_that_do_not_fit_together_fail_their_request_alone() -> None:
    class Ragged(Doubling):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
            rows = super().__call__(feeds)["y"]
            return {"y": rows.repeat(len(self.sizes), axis=1)}

    runtime = Ragged()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        large = asyncio.ensure_future(infer(engine, rows_of(*range(20))))
        await until(lambda: runtime.entered == 1)
        small = asyncio.ensure_future(infer(engine, rows_of(7)))
        await until(lambda: engine.queued_rows() == 5)
        runtime.free.set()
        with pytest.raises(InferenceFailed, match="do not fit"):
            await large
        assert (await small)[0]["y"].tolist() == [[14, 14]]


async def test_one_bad_row_fails_its_whole_request_and_nobody_else() -> None:
    runtime = Doubling()
    runtime.free.clear()
    async with running_engine(runtime) as engine:
        bad = asyncio.ensure_future(infer(engine, rows_of(-1, *range(60))))
        await until(lambda: runtime.entered == 1)
        good = asyncio.ensure_future(infer(engine, rows_of(*range(30))))
        await until(lambda: engine.queued_rows() > 30)
        runtime.free.set()
        with pytest.raises(InferenceFailed):
            await bad
        assert (await good)[0]["y"].ravel().tolist() == [2 * value for value in range(30)]
        assert engine.queued_rows() == 0
    assert sum(runtime.sizes) < 16 + 91, "what the others would have answered was wanted by nobody"
