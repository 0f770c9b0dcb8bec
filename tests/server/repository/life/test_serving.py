"""A version that another has replaced is closed after its last request, and freed after its last batch."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from resonnx_server.errors import Unavailable
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.serving import Serving

from ...asking import infer
from ...tensors.doubling import Doubling, rows_of, running_engine
from ...waiting import until


class Memory:
    """Counts what it is told."""

    changing = changed = kept = 0
    most = 1 << 30

    def models_change(self) -> None:
        self.changing += 1

    def models_changed(self) -> None:
        self.changed += 1

    def keep_for_batches(self, nbytes: int) -> int:
        self.kept = min(nbytes, self.most)
        return nbytes - self.kept


def _model(metrics: Metrics, engine: Any) -> Any:
    return SimpleNamespace(name="m", version=1, stats=metrics.model("m", 1), engine=engine, lease=Lease())


async def test_requests_keep_the_version_that_they_were_admitted_to() -> None:
    models, metrics, memory, drained = Models(loading=False), Metrics(), Memory(), []
    serving, inference = Serving(models, memory), Inference(models, Mock(), Budget(1 << 30))
    async with running_engine(Doubling()) as engine:
        model, generation = _model(metrics, engine), Generation(1, "a")
        serving.add(generation, model)
        models.add(model)
        with inference.begin("m", 0, 1) as first, inference.begin("m", 1, 1):
            serving.begin_drain(generation, lambda: drained.append(1))
            with pytest.raises(Exception, match="not in the repository"):
                models.get("m")
            for _ in range(5):
                await asyncio.sleep(0)
            # It answers the requests that it was admitted for.
            outputs, first.timing = await infer(engine, rows_of(3, 4))
            assert outputs["y"].ravel().tolist() == [6, 8]
            assert model.lease.held == 2
            assert drained == []
        await until(lambda: drained)
        assert (memory.changing, memory.changed) == (1, 1)
        assert [*serving] == []
        with pytest.raises(Unavailable):
            engine.reserve(Mock())


async def test_nothing_is_freed_under_a_batch_that_runs() -> None:
    engine, drained = Mock(is_running=True, batch_bytes=0), []
    serving = Serving(Models(), Memory())
    generation, model = Generation(1, "a"), _model(Metrics(), engine)
    serving.add(generation, model)
    serving.begin_drain(generation, lambda: drained.append(1))
    await until(lambda: engine.close.called)
    await asyncio.sleep(0.05)
    assert not engine.free.called
    engine.is_running = False
    await until(lambda: drained)
    engine.free.assert_called_once()


async def test_memory_is_kept_for_the_batches_of_all_versions_until_they_are_freed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models, metrics, memory = Models(loading=False), Metrics(), Memory()
    serving, drained = Serving(models, memory), []
    memory.most = 100
    old, new = Generation(1, "a"), Generation(1, "b")
    serving.add(old, _model(metrics, Mock(is_running=True, batch_bytes=70)))
    assert memory.kept == 70
    assert not caplog.records
    serving.add(new, _model(metrics, Mock(is_running=False, batch_bytes=50)))
    (record,) = caplog.records
    assert "memory_budget_bytes keeps less" in record.message
    assert [record.__dict__[key] for key in ("model", "version", "bytes", "bytes_beyond")] == ["m", 1, 50, 20]
    serving.begin_drain(new, lambda: drained.append(1))
    await until(lambda: drained)
    assert memory.kept == 70, "one that drains or still runs counts"
    (model,) = serving
    model.engine.is_running = False
    serving.begin_drain(old, lambda: drained.append(2))
    await until(lambda: len(drained) == 2)
    assert memory.kept == 0


async def test_a_freed_engine_holds_no_session() -> None:
    """Without a garbage collection, which is rare."""
    async with running_engine(Doubling()) as engine:
        await infer(engine, rows_of(*range(20)))
        engine.close()
        await until(lambda: not engine.is_running)
        engine.free()
        for pool in engine.instance_group.pools:
            assert pool.open_again is None
            with pytest.raises(Unavailable):
                pool.run({"x": np.zeros((1, 1))})
        assert not engine._buffers


def test_series_of_unloaded_versions_stay_until_many_others_are_unloaded() -> None:
    metrics = Metrics()
    first = metrics.model("m", 1)
    metrics.retire("m", 1)
    assert metrics.model("m", 1) is first, "a version that is loaded again goes on counting"
    for version in range(1, 258):
        metrics.model("m", version)
        metrics.retire("m", version)
    assert metrics.model("m", 2) is not None
    assert metrics.model("m", 1) is not first
