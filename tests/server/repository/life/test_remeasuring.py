"""Doubtful measurements are made again when no request is under way, and given up when one comes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.registry import Models
from resonnx_server.inference.repository_control import State
from resonnx_server.repository.life import remeasuring
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.remeasuring import Remeasuring
from resonnx_server.runtime.machine.processor_time import ProcessorTime

from ... import answering
from ...asking import infer
from ...waiting import until
from .changing import changing


class Load:
    """A load that ends when the test says so."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.progress = SimpleNamespace(is_over=False, is_doubtful=False)

    def cancel(self) -> None:
        self.progress.is_over = True
        if not self.result.done():
            self.result.set_exception(ModelRefused("the load was cancelled"))
            # Retrieved: nobody asks for it after a stop.
            self.result.exception()


class Reloader:
    """Stands for Reloading."""

    def __init__(self) -> None:
        self.is_busy = False
        self.loads: list[Load] = []
        self.is_wanted = True

    def load_again(self, *_: object) -> Load:
        self.loads.append(Load())
        return self.loads[-1]

    async def ended(self) -> None:
        pass

    def renew(self, life: object, generation: Generation, *_: object) -> tuple[Generation, Any] | None:
        if not self.is_wanted:
            return None
        renewed = Generation(generation.version, None)
        renewed.move(State.READY)
        return renewed, MODEL


MODEL: Any = SimpleNamespace(
    name="m", version=1, lease=Lease(), engine=SimpleNamespace(is_running=False, is_unloaded=False)
)


class Machine:
    """A model that serves, and a time that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.models = Models()
        self.models.add(MODEL)
        self.reloader = Reloader()
        self.remeasuring = Remeasuring(self.models, self.reloader, lambda: self.now_s)  # type: ignore[arg-type]
        self.generation = Generation(1, None)
        self.generation.move(State.READY)
        life: Any = SimpleNamespace(name="m", is_compared=False)
        self.life = life
        self.remeasuring.note(life, self.generation, MODEL, is_doubtful=True)

    async def after(self, seconds: float) -> int:
        """Return the number of attempts after so long."""
        self.now_s += seconds
        for _ in range(8):
            await asyncio.sleep(0.001)
        return len(self.reloader.loads)


@asynccontextmanager
async def _machine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    machine = Machine()
    running = asyncio.create_task(machine.remeasuring.run())
    try:
        yield machine
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_it_waits_until_no_request_has_come_for_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        assert await machine.after(9.9) == 0
        MODEL.lease.take()
        assert await machine.after(60) == 0, "a request is under way"
        MODEL.lease.give_back()
        machine.reloader.is_busy = True
        assert await machine.after(60) == 0, "a model is loaded"
        machine.reloader.is_busy = False
        assert await machine.after(0) == 1
        machine.reloader.loads[0].result.set_result(None)
        await machine.after(0)
        assert machine.models.doubtful == set()
        assert machine.models.remeasured == {("m", "replaced"): 1}
        assert MODEL.lease.on_take is None, "nobody asks for requests any more"
        assert await machine.after(1000) == 1


async def test_a_request_ends_the_attempt_and_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        pauses = []
        for attempts in range(1, 9):
            waited_s = 0
            while await machine.after(40) < attempts:
                waited_s += 40
            pauses.append(waited_s)
            MODEL.lease.take()
            MODEL.lease.give_back()
            assert machine.reloader.loads[-1].progress.is_over
        assert pauses == sorted(pauses)
        assert pauses[2] < pauses[4] < pauses[6]
        assert max(pauses) <= 600
        assert (await machine.after(0), machine.models.remeasured) == (8, {("m", "given_up"): 8})
        assert machine.models.doubtful == {("m", 1)}


async def test_three_doubtful_measurements_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        for attempts in (1, 2, 2):
            assert await machine.after(700) == attempts
            load = machine.reloader.loads[-1]
            load.progress.is_doubtful = True
            if not load.result.done():
                load.result.set_result(None)
            await machine.after(0)
        assert machine.models.doubtful == {("m", 1)}, "it is still told"


@pytest.mark.parametrize("error", [ModelRefused("its files have changed"), RuntimeError("a bug")])
async def test_what_cannot_be_loaded_again_serves_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async with _machine(monkeypatch) as machine:
        assert await machine.after(100) == 1
        machine.reloader.loads[0].result.set_exception(error)
        await machine.after(0)
        assert machine.models.remeasured == {("m", "refused"): 1}
        assert machine.generation.state is State.READY


async def test_versions_that_are_compared_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        machine.life.is_compared = True
        assert await machine.after(100) == 0
        machine.life.is_compared = False
        assert await machine.after(0) == 1


async def test_unloaded_models_stay_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        monkeypatch.setattr(MODEL.engine, "is_unloaded", True)
        assert await machine.after(100) == 0
        monkeypatch.setattr(MODEL.engine, "is_unloaded", False)
        assert await machine.after(0) == 1


async def test_a_version_that_has_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        machine.generation.move(State.DRAINING)
        assert await machine.after(100) == 0
        assert MODEL.lease.on_take is None


async def test_what_came_too_late_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        machine.reloader.is_wanted = False
        assert await machine.after(100) == 1
        machine.reloader.loads[0].result.set_result(None)
        await machine.after(0)
        assert machine.models.remeasured == {("m", "given_up"): 1}


async def test_a_load_that_ended_well_although_it_was_cancelled_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request came when its thread was done: its sessions end all runs."""
    async with _machine(monkeypatch) as machine:
        assert await machine.after(100) == 1
        machine.reloader.loads[0].progress.is_over = True
        machine.reloader.loads[0].result.set_result(None)
        await machine.after(0)
        assert machine.models.remeasured == {("m", "given_up"): 1}
        assert await machine.after(100) == 2, "it is tried again"


async def test_a_request_after_the_end_of_a_load_does_not_cancel_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:
        assert await machine.after(100) == 1
        machine.reloader.loads[0].result.set_result(None)
        MODEL.lease.take()
        MODEL.lease.give_back()
        assert not machine.reloader.loads[0].progress.is_over
        await machine.after(0)
        assert machine.models.remeasured == {("m", "replaced"): 1}


async def test_a_measured_model_takes_the_place_of_what_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With real loads and sessions: requests on the way are answered by the model that they began with."""
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    monkeypatch.setattr(remeasuring, "_QUIET_S", 0.02)
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    answering.write(tmp_path / "m" / "1", 7)
    pictures = {"image": np.zeros((1, answering.SIDE, answering.SIDE, 3), np.uint8)}
    async with changing(tmp_path) as repository:
        (first,) = repository.models
        assert repository.models.doubtful == {("m", 1)}
        running = asyncio.create_task(repository.control.remeasuring.run())
        first.lease.take()
        await until(lambda: repository.models.remeasured[("m", "given_up")] or first.lease.on_take)
        monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
        first.lease.give_back()
        await until(lambda: [*repository.models] != [first])
        (second,) = repository.models
        outputs, _ = await infer(second.engine, pictures)
        assert outputs["logits"].argmax() == 7
        await repository.rest()
        assert repository.states()[1] == ("ready", "")
        assert repository.models.remeasured["m", "replaced"] == 1
        assert repository.results() == {"ready": 1}, "it is no new load for those who watch these"
        running.cancel()
        await asyncio.wait({running})


async def test_a_stop_ends_the_load_under_way_and_knows_of_it_until_its_thread_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    monkeypatch.setattr(remeasuring, "_QUIET_S", 0.02)
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    answering.write(tmp_path / "m" / "1", 7)
    async with changing(tmp_path) as repository:
        is_in, may_end, loads = threading.Event(), threading.Event(), repository.control.loading

        def during(_: object) -> None:
            is_in.set()
            assert may_end.wait(30)

        repository.during = during
        running = asyncio.create_task(repository.control.remeasuring.run())
        await until(is_in.is_set)
        running.cancel()
        await asyncio.wait({running})
        (load,) = loads.under_way
        assert load.progress.is_over
        assert not await loads.end(0.01), "its thread runs"
        may_end.set()
        assert await loads.end(30)


async def test_a_model_that_cannot_be_made_leaves_the_others_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _machine(monkeypatch) as machine:

        def fails(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(machine.reloader, "renew", fails)
        assert await machine.after(100) == 1
        machine.reloader.loads[0].result.set_result(None)
        await machine.after(0)
        assert machine.models.remeasured == {("m", "refused"): 1}


async def test_files_that_have_changed_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Changes are for the repository's watch, if there is one."""
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    monkeypatch.setattr(remeasuring, "_QUIET_S", 0.02)
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    answering.write(tmp_path / "m" / "1", 7)
    async with changing(tmp_path) as repository:
        (first,) = repository.models
        answering.write(tmp_path / "m" / "1", 8)
        running = asyncio.create_task(repository.control.remeasuring.run())
        await until(lambda: repository.models.remeasured["m", "refused"])
        assert [*repository.models] == [first]
        running.cancel()
        await asyncio.wait({running})
