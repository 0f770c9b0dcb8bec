"""A bare ONNX file of a known shape is warmed and timed as a classifier is; others are served from a guess."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from resonnx_server.inference.registry import Model
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.choosing.turns import Raced
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.measurement import Measured
from resonnx_server.tensors.engine import TensorEngine

from ...asking import infer
from ...onnx_classifier import version

Tensors = dict[str, np.ndarray]
SIZES = (1, 2, 3, 4, 6, 8)
ONE_MS = Measured(1e6, 0.0)


def _write(folder: Path, *axes: int | str, expanded: tuple[int, ...] = (1, 1)) -> None:
    """model.onnx: x [*axes] -> y = x + x, expanded to a shape."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "x"], ["z"]), helper.make_node("Expand", ["z", "shape"], ["y"])]
    graph = helper.make_graph(nodes, "bare", [x], [y], [helper.make_tensor("shape", TensorProto.INT64, [2], expanded)])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "model.onnx"
    )


async def _load(folder: Path, threads: int = 2) -> Model:
    """Load it, let it double three rows, and close it."""
    device, cache = Device("cpu", 2), LatencyCache.open(folder / "tables", threads)
    found = SimpleNamespace(name="m", version=1, path=folder)
    model = bare_file.load(replace(version(device, cache, threads, max_batch_size=8), folder=found))()  # type: ignore[arg-type]
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    x[1, 1:3] = np.nan, np.inf
    outputs, _ = await infer(model.engine, {"x": x})
    assert np.array_equal(outputs["y"], 2 * x, equal_nan=True), "NaN may be what such a model means"
    model.engine.close()
    device.close()
    return model


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of batches of zeros that sessions run."""
    sizes = []
    run = Session.run

    def noted(session: Session, feeds: Tensors, *more: object) -> Tensors:
        if not feeds["x"].any():
            sizes.append(len(feeds["x"]))
        return run(session, feeds, *more)

    monkeypatch.setattr(Session, "run", noted)
    return sizes


async def test_a_known_shape_is_measured_once_and_its_tables_are_kept(
    tmp_path: Path, warmed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sizes that seem bad are measured again, and all where something else held the processors.
    monkeypatch.setattr("resonnx_server.repository.warming.far_above", lambda _: set())
    monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
    monkeypatch.setattr(Raced, "is_doubtful", False)
    _write(tmp_path, "n", 4)
    model = await _load(tmp_path)
    assert set(warmed) == set(SIZES)
    assert model.sessions[0].table.sizes == SIZES
    assert model.max_batch_size == 8
    tables = sorted((tmp_path / "tables").iterdir())
    assert tables
    warmed.clear()
    await _load(tmp_path)
    assert set(warmed) == {8}, "each session's largest"
    assert sorted((tmp_path / "tables").iterdir()) == tables


async def test_instances_are_chosen_by_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race is won by the last candidate: as many batches at once as there may be."""
    _write(tmp_path, "n", 4)

    def race(_: Warming[object], _subject: str, candidates: Sequence[object]) -> Raced:
        count = len(candidates)
        order, scores = tuple(reversed(range(count))), (1.0,) * count
        return Raced(order, scores, behind=scores, turns=1, is_settled=True, received=ProcessorTime())

    monkeypatch.setattr(Warming, "race", race)
    model = await _load(tmp_path)
    assert model.sessions[0].instances == 2
    assert isinstance(model.engine, TensorEngine)
    assert model.engine.instance_group.max_concurrent_batches == 2


async def test_a_graph_that_is_not_batched_is_measured_once_in_its_own_shape(
    tmp_path: Path, warmed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
    _write(tmp_path, 3, 4, expanded=(3, 4))
    model = await _load(tmp_path)
    assert set(warmed) == {3}
    assert len(warmed) > 2
    assert (model.sessions[0].table.sizes, model.sessions[0].instances, model.max_batch_size) == ((1,), 1, 0)
    assert len(list((tmp_path / "tables").iterdir())) == 1
    warmed.clear()
    await _load(tmp_path)
    assert warmed == [3], "it is warmed, and not measured again"


async def test_other_shapes_are_served_from_a_guess(tmp_path: Path, warmed: list[int]) -> None:
    _write(tmp_path, "n", "m")
    model = await _load(tmp_path)
    assert model.sessions[0].table.sizes == SIZES
    assert model.sessions[0].instances == 1
    assert not list((tmp_path / "tables").iterdir())


async def test_a_graph_that_zeros_do_not_suit_is_served_from_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, "n", 4)
    run = Session.run

    def choosy(session: Session, feeds: Tensors, *more: object) -> Tensors:
        if not feeds["x"].any():
            raise RuntimeError("nothing but zeros")
        return run(session, feeds, *more)

    monkeypatch.setattr(Session, "run", choosy)
    model = await _load(tmp_path)
    assert model.sessions[0].instances == 1
    costs = model.sessions[0].table.snapshot()
    assert costs[8].expected_ns == pytest.approx(2 * costs[2].expected_ns), "by the square root of the rows"
    assert not list((tmp_path / "tables").iterdir())
