"""A version that was drained leaves nothing behind, without a garbage collection, which would hold up every call."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from resonnx_server.errors import ServerError
from resonnx_server.inference.registry import Model
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.life import remeasuring
from resonnx_server.repository.life.reloading import Reloading
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine

from ... import answering
from ...asking import caption, infer
from ...hand import caption_engine
from ...language import Language, picture
from ...tensors.doubling import COSTS, Doubling, rows_of
from ...waiting import until
from .changing import changing


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect no garbage until the block ends."""
    # What pytest captures of the log keeps errors.
    logging.disable()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


async def _tensors(device: Device) -> AnyEngine:
    """Return an engine after batches of which one failed, and a request that was cancelled."""
    pool = SessionPool(Doubling(), LatencyTable(COSTS))
    stats = Metrics().model("m", 1)
    engine = TensorEngine(InstanceGroup(pool, pool, 2), device, stats, max_queue_rows=1000)
    await asyncio.gather(*(infer(engine, rows_of(*range(20))) for _ in range(8)))
    with suppress(ServerError):
        await infer(engine, rows_of(-1))
    task = asyncio.ensure_future(infer(engine, rows_of(1)))
    await asyncio.sleep(0)
    task.cancel()
    return engine


async def _captions(device: Device) -> AnyEngine:
    """Return a captioning engine after captions."""
    engine = caption_engine(Language(), device, instances=2)
    await asyncio.gather(*(caption(engine, picture(n), DecodeOptions(max_tokens=9)) for n in range(20)))
    return engine


@pytest.mark.parametrize("make", [_tensors, _captions])
async def test_a_freed_engine_is_gone(make: Callable[[Device], Awaitable[AnyEngine]]) -> None:
    device = Device("test", 2)
    with no_garbage_collection():
        engine = await make(device)
        while engine.is_running:
            await asyncio.sleep(0.001)
        engine.close()
        engine.free()
        left = weakref.ref(engine)
        del engine
        # Lanes that sleep hold no engine either.
        await until(lambda: left() is None)
    device.close()


async def test_versions_that_change_leave_nothing(tmp_path: Path) -> None:
    """Good, unchanged and bad ones, with real sessions; of the first as well, whose garbage is never collected."""
    left: list[weakref.ref[object]] = []
    answering.write(tmp_path / "m" / "1", 1)
    with no_garbage_collection():
        async with changing(tmp_path) as repository:
            changes = [(1, {}), (2, {}), (3, {"lies": True}), (2, {}), (3, {"corrupt": True})]
            for turn, (version, kind) in enumerate(changes):
                for model in repository.models:
                    left += map(weakref.ref, _parts(model))
                del model
                answering.write(tmp_path / "m" / str(version), turn + 2, **kind)
                await repository.seen()
            assert repository.results() == {"ready": 4, "refused": 2}
            (model,) = repository.models
            serving = {*map(id, _parts(model))}
            await until(lambda: {id(part) for each in left if (part := each()) is not None} <= serving)
            assert len(left) > 2 * len(serving)


async def test_a_load_that_measured_again_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither does the model that it made, once its files have changed."""
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    monkeypatch.setattr(remeasuring, "_QUIET_S", 0.02)
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    answering.write(tmp_path / "m" / "1", 1)
    with no_garbage_collection():
        async with changing(tmp_path) as repository:
            (model,) = repository.models
            left = [*map(weakref.ref, _parts(model))]
            running = asyncio.create_task(repository.control.remeasuring.run())
            await until(lambda: repository.models.remeasured["m", "replaced"])
            monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
            running.cancel()
            await asyncio.wait({running})
            await repository.rest()
            (model,) = repository.models
            left += map(weakref.ref, _parts(model))
            answering.write(tmp_path / "m" / "1", 2)
            await repository.seen()
            (model,) = repository.models
            serving = {*map(id, _parts(model))}
            await until(lambda: {id(part) for each in left if (part := each()) is not None} <= serving)


async def test_a_measurement_that_is_cancelled_at_its_end_keeps_no_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although its task, which others hold, keeps the frames of the cancellation."""
    monkeypatch.setattr(remeasuring, "_LOOK_S", 0.001)
    monkeypatch.setattr(remeasuring, "_QUIET_S", 0.02)
    monkeypatch.setattr(ProcessorTime, "is_disturbed", True)
    at_its_end = asyncio.Event()

    async def ended(_: Reloading) -> None:
        at_its_end.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Reloading, "ended", ended)
    answering.write(tmp_path / "m" / "1", 1)
    with no_garbage_collection():
        async with changing(tmp_path) as repository:
            running = asyncio.create_task(repository.control.remeasuring.run())
            await at_its_end.wait()
            (model,) = repository.models
            left = weakref.ref(model)
            del model
            running.cancel()
            await asyncio.wait({running})
            answering.write(tmp_path / "m" / "1", 2)
            await repository.seen()
            await until(lambda: left() is None)
            assert running.cancelled()


def _parts(model: Model) -> list[object]:
    assert isinstance(model.engine, TensorEngine)
    sessions = {pool.run.__self__ for pool in model.engine.instance_group.pools}  # type: ignore[attr-defined]
    return [model, model.engine, *sessions]
