"""A bare graph's initializers that are inputs too may be left out or fed, by each request for itself only."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from resonnx_server.errors import DeadlineUnreachable
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine
from tritonclient.utils import InferenceServerException

from ..asking import infer
from ..waiting import Clock, until


def _write(path: Path, axes: list[int | str]) -> None:
    """y = x * scale + shift, where scale [1] and shift [] have values but may be fed.

    With fixed axes, a shape inside the graph is fixed as well, so that it is not batched.
    """
    path.parent.mkdir(parents=True)
    vector = helper.make_tensor_value_info
    inputs = [
        vector("x", TensorProto.FLOAT, axes),
        vector("scale", TensorProto.FLOAT, [1]),
        vector("shift", TensorProto.FLOAT, []),
    ]
    values = [
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("shift", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("constant", TensorProto.FLOAT, [1], [0.0]),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
        helper.make_node("Add", ["shifted", "constant"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["y"]),
    ]
    if all(isinstance(axis, int) for axis in axes):
        values.append(helper.make_tensor("shape", TensorProto.INT64, [len(axes)], axes))
        nodes[-1] = helper.make_node("Expand", ["sum", "shape"], ["y"])
    graph = helper.make_graph(nodes, "bare", inputs, [vector("y", TensorProto.FLOAT, axes)], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory) -> Iterator[object]:
    repository = tmp_path_factory.mktemp("optional")
    _write(repository / "rows/1/model.onnx", ["n", 4])
    _write(repository / "fixed/1/model.onnx", [2, 4])
    config = repository.parent / "server.toml"
    # So that requests of one moment do wait for each other.
    config.write_text("[models.rows]\nmax_queue_delay_us = 100000\n")
    with start_server(repository, "--config", str(config)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


def _input(name: str, array: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def _scale(value: float) -> triton.InferInput:
    return _input("scale", np.array([value], np.float32))


def _ask(client: triton.InferenceServerClient, *inputs: triton.InferInput, model: str = "rows") -> np.ndarray:
    return client.infer(model, list(inputs)).as_numpy("y")


def test_they_are_shown_as_optional(client) -> None:
    for model, x in (("rows", [-1, 4]), ("fixed", [2, 4])):
        metadata, config = client.get_model_metadata(model), client.get_model_config(model).config
        shown = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
        assert shown == {"x": x, "scale": [1], "shift": [1]}
        assert {tensor.name: tensor.optional for tensor in config.input} == {"x": False, "scale": True, "shift": True}
        assert {tensor.name: list(tensor.dims) for tensor in config.input}["scale"] == [1]
    assert client.get_model_config("rows").config.max_batch_size == 16


@pytest.mark.parametrize("model", ["rows", "fixed"])
def test_left_out_or_fed_in_any_order(client, model: str) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    shift = _input("shift", np.array([-1], np.float32))
    assert (_ask(client, _input("x", x), model=model) == 2 * x + 0.5).all()
    assert (_ask(client, _scale(3), _input("x", x), model=model) == 3 * x + 0.5).all()
    assert (_ask(client, shift, _input("x", x), _scale(3), model=model) == 3 * x - 1).all()
    assert (_ask(client, _input("x", x), model=model) == 2 * x + 0.5).all(), "and nothing of it is left"


def test_who_feeds_them_does_so_for_himself_only(server, client) -> None:
    """Many at the same moment, with and without, of several rows: each answer is of its own request."""
    rng = np.random.default_rng(0)
    asked = [(rng.standard_normal((1 + i % 3, 4)).astype(np.float32), i % 4 and float(i)) for i in range(48)]

    def ask(x: np.ndarray, scale: float) -> np.ndarray:
        with triton.InferenceServerClient(server.grpc) as client:
            return _ask(client, _input("x", x), *([_scale(scale)] if scale else []))

    before = client.get_inference_statistics("rows").model_stats[0]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda each: ask(*each), asked))
    for (x, scale), answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer, x * (scale or 2) + 0.5, rtol=1e-6)
    after = client.get_inference_statistics("rows").model_stats[0]
    assert after.inference_count - before.inference_count == sum(len(x) for x, _ in asked)
    alone = sum(1 for _, scale in asked if scale)
    assert alone < after.execution_count - before.execution_count < len(asked), "the others did share batches"


async def test_a_whole_request_is_expected_to_take_what_its_rows_take() -> None:
    """And however long it takes then, nobody else is told so: what it changes may make the model slow."""
    clock, running = Clock(), threading.Event()

    def run(feeds):
        if "scale" in feeds:
            running.wait(10)
            clock.ns += 10_000_000
        return {"y": feeds["x"]}

    table = LatencyTable({1: 1e6, 4: 2e6, 8: 3e6}, clock=clock)
    device = Device("cpu", 1, clock)
    engine = TensorEngine(
        InstanceGroup.single(SessionPool(run, table)), device, Metrics().model("m", 1), max_queue_rows=64
    )
    x, scale = np.ones((7, 2), np.float32), np.array([3], np.float32)
    try:
        with pytest.raises(DeadlineUnreachable, match="would take 3 ms even on an idle device"):
            await infer(engine, {"x": x, "scale": scale}, clock.ns + 2_500_000, whole=True)
        asked = asyncio.ensure_future(infer(engine, {"x": x, "scale": scale}, whole=True))
        await until(lambda: device.idle_lanes() == 0)
        with device.lock:
            assert device.under_way_ns(clock.ns) == 3_000_000
        running.set()
        await asked
        for _ in range(50):
            await infer(engine, {"x": x, "scale": scale}, clock.ns + 4_000_000, whole=True)
        await infer(engine, {"x": x[:1]}, clock.ns + 1_000_000)
    finally:
        engine.close()
        await asyncio.to_thread(device.close)


async def test_a_whole_request_runs_as_it_is_and_teaches_no_table() -> None:
    """Neither padding nor company, whatever its number of rows, with a deadline and without."""
    shapes = []

    def run(feeds):
        shapes.append({name: array.shape for name, array in feeds.items()})
        return {"y": feeds["x"] * feeds.get("scale", np.float32(2))}

    table = LatencyTable({1: 1e6, 4: 2e6, 8: 3e6})
    device = Device("cpu", 1)
    engine = TensorEngine(
        InstanceGroup.single(SessionPool(run, table)), device, Metrics().model("m", 1), max_queue_rows=64
    )
    known = {size: cost.expected_ns for size, cost in table.snapshot().items()}
    x, scale = np.ones((7, 2), np.float32), np.array([3], np.float32)
    try:
        for deadline in (None, device.clock() + 60_000_000_000):
            outputs, timing = await infer(engine, {"x": x, "scale": scale}, deadline, whole=True)
            assert outputs["y"].tolist() == [[3, 3]] * 7
            assert timing.batch_rows == 7
    finally:
        engine.close()
        await asyncio.to_thread(device.close)
    assert shapes == [{"x": (7, 2), "scale": (1,)}] * 2
    assert {size: cost.expected_ns for size, cost in table.snapshot().items()} == known
    assert (engine.stats.inferences, engine.stats.executions, engine.stats.padded_rows) == (14, 2, 0)


def test_what_does_not_fit_is_told(client) -> None:
    x = _input("x", np.zeros((1, 4), np.float32))
    with pytest.raises(InferenceServerException, match=r"inputs\['scale'\].shape: \[4\]; the model takes \[1\]"):
        _ask(client, x, _input("scale", np.zeros(4, np.float32)))
    with pytest.raises(InferenceServerException, match="'constant' is not one of"):
        _ask(client, x, _input("constant", np.zeros(1, np.float32)))
    with pytest.raises(InferenceServerException, match="'x' is missing"):
        _ask(client, _scale(1))
    with pytest.raises(InferenceServerException, match="given twice"):
        _ask(client, x, _scale(1), _scale(1))
    with pytest.raises(InferenceServerException, match=r"17 rows with optional inputs.*16 at most"):
        _ask(client, _input("x", np.zeros((17, 4), np.float32)), _scale(1))
    assert _ask(client, _input("x", np.zeros((17, 4), np.float32))).shape == (17, 4)
