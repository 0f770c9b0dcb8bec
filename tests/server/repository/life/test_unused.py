"""Models are unloaded when no request has come for as long as their setting says, and the memory is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from resonnx_server.inference.lease import Lease
from resonnx_server.observe.stats import ModelStats
from resonnx_server.repository.life.unused import Unused
from resonnx_server.scheduling.replacement import Event

from ...waiting import until


class Engine:
    """Notes when it is unloaded."""

    def __init__(self) -> None:
        self.served: dict[str, float] = {}
        self.is_unloaded, self.unloads, self.can = False, 0, True

    def served_ns(self) -> dict[str, float]:
        return self.served

    def unload(self) -> list[object]:
        if self.is_unloaded:
            return []
        self.unloads += 1
        self.is_unloaded = self.can
        return [self] if self.can else []


@dataclass(eq=False)
class Model:
    """What is known of a model."""

    unload_unused_s: float | None = None
    stats: ModelStats = field(default_factory=ModelStats)
    engine: Engine = field(default_factory=Engine)
    lease: Lease = field(default_factory=Lease)


class Memory:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def models_change(self) -> None:
        self.begun += 1

    def models_changed(self) -> None:
        self.ended += 1

    def keep_for_batches(self, nbytes: int) -> int:
        return nbytes


def _unused(models: list[Model], after_s: float, memory: Memory) -> Unused:
    given: Any = models
    return Unused(given, after_s, memory)


async def test_after_the_time_without_a_request() -> None:
    model, memory = Model(), Memory()
    unused = _unused([model], 60, memory)
    assert unused.look(0) == 7.5, "an eighth of the time"
    unused.look(59)
    assert not model.engine.unloads
    model.stats.success.add(1)
    unused.look(61)
    unused.look(120)
    model.lease.take()
    unused.look(122)
    model.lease.give_back()
    unused.look(181)
    assert not model.engine.unloads
    unused.look(182)
    assert model.engine.unloads == 1
    await until(lambda: (memory.begun, memory.ended) == (1, 1))
    unused.look(1000)
    assert model.engine.unloads == 1, "it is unloaded already"
    model.engine.is_unloaded = False
    model.stats.success.add(1)
    unused.look(1001)
    unused.look(1060)
    assert model.engine.unloads == 1
    unused.look(1061)
    assert model.engine.unloads == 2


@pytest.mark.parametrize(
    ("server_s", "model_s", "expected"), [(0, None, 0), (10, 0, 0), (10, None, 1), (0, 10, 1), (99, 10, 1), (10, 99, 0)]
)
async def test_the_model_s_setting_goes_before_the_server_s(
    server_s: float, model_s: float | None, expected: int
) -> None:
    model = Model(model_s)
    unused = _unused([model], server_s, Memory())
    for now_s in (0, 11):
        unused.look(now_s)
    assert model.engine.unloads == expected


async def test_runs_of_a_comparison_count_as_use() -> None:
    model = Model()
    unused = _unused([model], 10, Memory())
    unused.look(0)
    model.engine.served["comparison"] = 1e6
    unused.look(11)
    assert not model.engine.unloads


async def test_what_cannot_be_unloaded_is_asked_again_after_the_same_time() -> None:
    model, memory = Model(), Memory()
    model.engine.can = False
    unused = _unused([model], 10, memory)
    for now_s in (0, 10, 11, 19, 20):
        unused.look(now_s)
    assert model.engine.unloads == 2
    assert memory.begun == 0


@pytest.mark.parametrize("ends", ["reopened", "not_reopened", "freed"])
async def test_the_memory_is_told_of_openings_that_end_and_of_those_of_models_that_are_freed(ends: Any) -> None:
    models, memory = [Model()], Memory()
    unused = _unused(models, 10, memory)
    engine: Any = models[0].engine
    unused.event(engine, Event("reopening"))
    unused.look(0)
    assert (memory.begun, memory.ended) == (1, 0)
    end: Callable[[], object] = models.clear if ends == "freed" else lambda: unused.event(engine, Event(ends))
    end()
    for now_s in (1, 2):
        unused.look(now_s)
    await until(lambda: (memory.begun, memory.ended) == (1, 1))
    unused.event(engine, Event("interrupted"))
    assert memory.begun == 1
