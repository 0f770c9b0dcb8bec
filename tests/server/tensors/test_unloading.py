"""Sessions of an unused model are closed, and opened once for all requests that come then."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from resonnx_server.errors import ModelRefused, Unavailable
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorCost, TensorEngine

from ..asking import infer
from ..waiting import until


class Model:
    """Doubles. Its opening waits for `may_open`, and fails with `fault` if it has one."""

    def __init__(self) -> None:
        self.may_open, self.opened, self.fault = threading.Event(), 0, ""
        self.may_run = threading.Event()
        self.may_run.set()
        self.may_open.set()

    def run(self, feeds: Tensors) -> Tensors:
        assert self.may_run.wait(30)
        return {"y": feeds["x"] * 2}

    def open_again(self) -> Callable[[Tensors], Tensors]:
        self.opened += 1
        assert self.may_open.wait(30)
        if self.fault:
            raise ModelRefused(self.fault)
        return self.run


def _rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float32)[:, np.newaxis]}


@asynccontextmanager
async def _serving(model: Model, let_go: Callable[[], None] | None = lambda: None) -> AsyncIterator[TensorEngine]:
    device = Device("cpu", 2)
    pools = [SessionPool(model.run, LatencyTable({1: 1e6}), False, model.open_again, let_go) for _ in range(2)]
    engine = TensorEngine(InstanceGroup(pools[0], pools[1], 2), device, Metrics().model("m", 1), max_queue_rows=64)
    try:
        yield engine
    finally:
        model.may_open.set()
        model.may_run.set()
        engine.close()
        assert device.close(10)


async def _answer(engine: TensorEngine, value: float) -> float:
    return float((await infer(engine, _rows(value)))[0]["y"].item())


async def test_requests_of_many_callers_open_the_sessions_once() -> None:
    model = Model()
    async with _serving(model) as engine:
        assert await _answer(engine, 1) == 2
        assert len(engine.unload()) == 2, "of both sessions"
        assert (engine.is_unloaded, engine.is_paused) == (True, False), "it is ready"
        assert not engine.unload()
        model.may_open.clear()
        asked = [asyncio.ensure_future(_answer(engine, n)) for n in range(32)]
        await until(lambda: engine.queued_rows() == 32 and model.opened == 1)
        model.may_open.set()
        assert await asyncio.gather(*asked) == [2 * n for n in range(32)]
        assert model.opened == 2, "one opening of each session"
        assert not engine.is_unloaded
        await until(lambda: engine.stats.session_events == {"unloaded": 1, "reopening": 1, "reopened": 1})
        assert engine.unload(), "and so on"
        assert await _answer(engine, 3) == 6


async def test_what_is_used_or_cannot_be_opened_again_is_not_unloaded() -> None:
    model = Model()
    async with _serving(model) as engine:
        model.may_run.clear()
        asked = asyncio.ensure_future(_answer(engine, 1))
        await until(lambda: engine.is_running)
        assert not engine.unload()
        model.may_run.set()
        assert await asked == 2
        await until(lambda: not engine.is_running)
        with engine.reserve(TensorCost(1)):
            assert not engine.unload(), "a picture is being decoded, say"
        assert engine.unload()
    async with _serving(Model(), None) as engine:
        assert not engine.unload()
        assert await _answer(engine, 1) == 2


async def test_requests_of_a_model_that_cannot_be_opened_fail_and_the_next_ones_open_it() -> None:
    model = Model()
    async with _serving(model) as engine:
        assert engine.unload()
        model.fault = "model.onnx has changed since it was loaded"
        for answer in await asyncio.gather(*(_answer(engine, n) for n in range(4)), return_exceptions=True):
            assert isinstance(answer, Unavailable)
            assert "the model was unloaded, and cannot be opened again: model.onnx has changed" in answer.message
        assert engine.is_unloaded
        model.fault = ""
        assert await _answer(engine, 2) == 4
        await until(lambda: engine.stats.session_events["reopened"] == 1)
        assert engine.stats.session_events["not_reopened"] >= 1


async def test_a_request_that_reserved_before_a_failure_opens_the_sessions_when_it_is_submitted() -> None:
    model = Model()
    async with _serving(model) as engine:
        assert engine.unload()
        model.fault = "the disk is away"
        with engine.reserve(TensorCost(1)) as reservation:
            await until(lambda: engine.stats.session_events["not_reopened"])
            model.fault = ""
            outputs, _ = await engine.submit(_rows(4), reservation)
        assert outputs["y"].item() == 8


async def test_a_deadline_holds_while_the_sessions_are_opened() -> None:
    model = Model()
    async with _serving(model) as engine:
        assert engine.unload()
        model.may_open.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_answer(engine, 1), 0.05)
        assert engine.queued_rows() == 0
        model.may_open.set()
        assert await _answer(engine, 2) == 4
        assert model.opened == 2


async def test_a_model_that_is_closed_while_it_is_opened_holds_no_sessions() -> None:
    model = Model()
    async with _serving(model) as engine:
        assert engine.unload()
        model.may_open.clear()
        asked = asyncio.ensure_future(_answer(engine, 1))
        await until(lambda: model.opened)
        engine.close()
        engine.free()
        model.may_open.set()
        with pytest.raises(Unavailable, match="being closed"):
            await asked
        await until(lambda: not any(thread.name == "reopen-sessions" for thread in threading.enumerate()))
        assert all(pool.run != model.run for pool in engine.instance_group.pools)
