"""A run that does not end fails its batch only; its session is replaced, and the model serves on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from resonnx_server.errors import InferenceHung, Unavailable
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.scheduling import replacement, watchdog
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.replacement import Event
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ..asking import infer
from ..waiting import until

HANGS = -1


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_TICK_S", 0.005)
    monkeypatch.setattr(watchdog, "_ENDING_NS", 20_000_000)


class Model:
    """Doubles; a row of -1 hangs in its kernel, or until it is interrupted, while the model is said to."""

    def __init__(self, *, ends: bool) -> None:
        self.over, self.entered, self.opened = threading.Event(), 0, 1
        self._ends = ends

    def run(self, feeds: Tensors) -> Tensors:
        if (feeds["x"] == HANGS).any():
            self.entered += 1
            runs = runs_of_this_thread()
            assert runs is not None
            while not self.over.wait(0.001):
                if self._ends and runs.is_over:
                    raise InferenceHung
        return {"y": feeds["x"] * 2}

    def open_again(self) -> Callable[[Tensors], Tensors]:
        self.opened += 1
        return self.run


def _rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float32)[:, np.newaxis]}


@asynccontextmanager
async def _serving(model: Model, open_again: Callable[[], object] | None = None) -> AsyncIterator[TensorEngine]:
    device = Device("cpu", 2)
    table = LatencyTable({1: 1e6})
    pool = SessionPool(model.run, table, open_again=open_again or model.open_again)  # type: ignore[arg-type]
    group = InstanceGroup(pool, pool, 2)
    engine = TensorEngine(group, device, Metrics().model("m", 1), max_queue_rows=64, run_timeout_s=0.05)
    try:
        yield engine
    finally:
        model.over.set()
        engine.close()
        assert device.close(10)


async def test_a_run_that_can_be_interrupted_fails_its_batch_and_no_session_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Model(ends=True)
    async with _serving(model) as engine:
        IDENTITY.set(Identity([("x-request-id", "r-1")]))
        with pytest.raises(InferenceHung, match="retry is safe"):
            await infer(engine, _rows(HANGS))
        assert (await infer(engine, _rows(3)))[0]["y"].item() == 6
        assert (model.opened, engine.device.abandoned()) == (1, 0)
        await until(lambda: engine.stats.session_events == {"interrupted": 1})
    (line,) = [record for record in caplog.records if hasattr(record, "request_ids")]
    assert line.request_ids == ["r-1"]


async def test_a_run_that_cannot_is_left_and_all_others_are_answered() -> None:
    model, events = Model(ends=False), list[Event]()
    async with _serving(model) as engine:
        engine.on_event = events.append
        hangs = [asyncio.ensure_future(infer(engine, _rows(HANGS))) for _ in range(2)]
        await until(lambda: model.entered == 2)
        # Both lanes hang; these wait for a new one.
        waiting = [asyncio.ensure_future(infer(engine, _rows(number))) for number in range(5)]
        answers = await asyncio.gather(*waiting)
        assert [answer[0]["y"].item() for answer in answers] == [0, 2, 4, 6, 8]
        for each in hangs:
            with pytest.raises(InferenceHung):
                await each
        assert engine.device.abandoned() == 2
        assert model.opened > 1
        assert {event.kind for event in events} == {"abandoned", "replacing", "replaced"}
        assert not engine.is_paused
        # Threads that come back after all say nothing, and are gone.
        model.over.set()
        await until(lambda: engine.device.abandoned() == 0)
        assert (await infer(engine, _rows(1, 2, 3)))[0]["y"].tolist() == [[2], [4], [6]]


@pytest.mark.parametrize("why", ["the file has gone", "too many hang"])
async def test_a_model_whose_session_cannot_be_replaced_stops(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, events = Model(ends=False), list[Event]()

    def gone() -> None:
        raise OSError(why)

    if why == "too many hang":
        monkeypatch.setattr(replacement, "MOST_ABANDONED", 0)
    async with _serving(model, gone) as engine:
        engine.on_event = events.append
        with pytest.raises(InferenceHung):
            await infer(engine, _rows(HANGS))
        await until(lambda: events and events[-1].kind == "stopped")
        assert ("has gone" if why == "the file has gone" else "restart the server") in events[-1].detail
        assert engine.is_paused
        waiting = asyncio.ensure_future(infer(engine, _rows(1)))
        await asyncio.sleep(0)
        # As the server does when it hears of it.
        engine.close()
        with pytest.raises(Unavailable):
            await waiting


async def test_another_models_runs_go_on() -> None:
    model, other = Model(ends=False), Model(ends=False)
    async with _serving(model) as engine:
        pool = SessionPool(other.run, LatencyTable({1: 1e6}))
        beside = TensorEngine(InstanceGroup.single(pool), engine.device, Metrics().model("o", 1), max_queue_rows=9)
        hangs = asyncio.ensure_future(infer(engine, _rows(HANGS)))
        while not hangs.done():
            assert (await infer(beside, _rows(4)))[0]["y"].item() == 8
        assert isinstance(hangs.exception(), InferenceHung)
        beside.close()
