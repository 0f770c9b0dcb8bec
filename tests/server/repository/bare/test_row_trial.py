"""Whether requests for an ONNX file without a manifest share batches: by a trial, and the log says why not."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import bare_file, row_trial
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.runtime.model_files import batch_axis
from resonnx_server.runtime.model_files.batch_axis import with_free_batch
from resonnx_server.scheduling.device import Device

from ...asking import infer
from ...onnx_classifier import version
from ...public_networks import public_network

Axes = list[int | str]
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
node = helper.make_node


def _graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Axes],
    output: Axes | None,
    constants: dict[str, np.ndarray] | None = None,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    taken = [helper.make_tensor_value_info(name, kind, axes) for name, axes in inputs.items()]
    given = [helper.make_tensor_value_info("y", kind, output)]
    values = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "trial", taken, given, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _load(folder: Path, model: onnx.ModelProto | bytes, caplog: pytest.LogCaptureFixture) -> tuple[Any, str | None]:
    """Return how to serve it, and why it is not batched."""
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    caplog.set_level(logging.WARNING)
    device = Device("cpu", 1)
    start = bare_file.load(replace(version(device, threads=1, max_batch_size=3), folder=ModelFolder("m", 1, folder)))
    (record,) = (r for r in caplog.records if r.getMessage() == "serving unverified: no manifest")
    assert record.__dict__["batched"] == (record.__dict__["not_batched"] is None)
    return (start, device), record.__dict__["not_batched"]


async def _answers(started: Any, x: np.ndarray) -> tuple[int, np.ndarray]:
    start, device = started
    model = start()
    outputs, _ = await infer(model.engine, {model.inputs[0].name: x})
    model.engine.close()
    device.close()
    return model.max_batch_size, next(iter(outputs.values()))


X = np.arange(12, dtype=np.float32).reshape(3, 4)
ADD = [node("Add", ["x", "x"], ["y"])]


def _unequal(axes: Axes) -> onnx.ModelProto:
    """With a known shape of an inner tensor that a free batch contradicts."""
    model = _graph([node("Relu", ["x"], ["z"]), node("Add", ["z", "x"], ["y"])], {"x": axes}, axes)
    model.graph.value_info.append(helper.make_tensor_value_info("z", FLOAT, axes))
    return model


def _shaped(size: int, *, constant: bool = False, varints: bool = False) -> onnx.ModelProto:
    """Shapes are fixed inside: of the rows, of a constant."""
    shapes = {"shape": np.array([size, 2, 2]), "flat": np.array([size, -1]), "row": np.array([1, 4])}
    nodes = [
        node("Reshape", ["x", "shape"], ["a"], allowzero=1),
        node("Reshape", ["a", "flat"], ["b"]),
        node("Reshape", ["zeros", "row"], ["zero"]),
        node("Add", ["b", "zero"], ["c"]),
        node("Add", ["c", "x"], ["y"]),
    ]
    model = _graph(nodes, {"x": [size, 4]}, [size, 4], {**shapes, "zeros": np.zeros(4, np.float32)})
    for tensor in [*model.graph.initializer][:3] if constant or varints else ():
        if varints:
            tensor.int64_data.extend(numpy_helper.to_array(tensor).tolist())
            tensor.ClearField("raw_data")
        if constant:
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, node("Constant", [], [tensor.name], value=tensor))
    return model


BATCHED = {
    "shapes inside, 1": _shaped(1),
    "shapes inside, 4": _shaped(4),
    "shapes inside, free": _graph(
        [node("Reshape", ["x", "shape"], ["y"])], {"x": ["n", 4]}, ["n", 4], {"shape": np.array([1, 4])}
    ),
    "shapes of constant nodes": _shaped(1, constant=True),
    "shapes of varints": _shaped(1, varints=True),
    "fixed 1": _unequal([1, 4]),
    "fixed 4": _unequal([4, 4]),
    "other names": _graph(ADD, {"x": ["N", 4]}, ["out_batch", 4]),
    "no names": _graph(ADD, {"x": [-1, 4]}, [-1, 4]),
    "fixed output": _graph(ADD, {"x": ["N", 4]}, [1, 4]),
    "free output": _graph(ADD, {"x": [1, 4]}, ["n", 4]),
}


@pytest.mark.parametrize("kind", BATCHED)
async def test_independent_rows_are_batched(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    started, reason = _load(tmp_path, BATCHED[kind], caplog)
    assert reason is None
    size, y = await _answers(started, X)
    assert size == 3
    np.testing.assert_array_equal(y, X if kind == "shapes inside, free" else 2 * X)


NOT_BATCHED = {
    "mean": (
        _graph(
            [node("ReduceMean", ["x", "rows"], ["m"]), node("Sub", ["x", "m"], ["y"])],
            {"x": ["n", 4]},
            ["n", 4],
            {"rows": np.array([0])},
        ),
        "rows depend on each other: output 'y' differs for rows run alone",
    ),
    "fixed mean": (
        _graph(
            [node("ReduceMean", ["x", "rows"], ["m"]), node("Sub", ["x", "m"], ["y"])],
            {"x": [3, 4]},
            [3, 4],
            {"rows": np.array([0])},
        ),
        "rows depend on each other",
    ),
    "rows that a shape joins": (
        _graph([node("Reshape", ["x", "shape"], ["y"])], {"x": ["n", 4]}, [1, "m"], {"shape": np.array([1, -1])}),
        "output 'y' of 3 rows is [1, 12]",
    ),
    "rows that a shape mixes": (
        _graph([node("Reshape", ["x", "shape"], ["y"])], {"x": [4, 2, 2]}, [2, 8], {"shape": np.array([2, 8])}),
        "cannot be run",
    ),
    "a shape that is more than a shape": (
        _graph(
            [
                node("Reshape", ["x", "shape"], ["z"]),
                node("Cast", ["shape"], ["numbers"], to=FLOAT),
                node("Add", ["z", "numbers"], ["y"]),
            ],
            {"x": [1, 2]},
            [1, 2],
            {"shape": np.array([1, 2])},
        ),
        "cannot be run",
    ),
    "all shapes": (
        _graph([node("Reshape", ["x", "shape"], ["y"])], {"x": ["n", 4, "w"]}, [1, 4], {"shape": np.array([2, -1])}),
        "output 'y' of 3 rows is [2, 48]",
    ),
    "more rows": (
        _graph([node("Concat", ["x", "x"], ["y"], axis=0)], {"x": ["n", 4]}, ["m", 4]),
        "output 'y' of 3 rows is [6, 4]",
    ),
    "sum": (_graph([node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": ["n", 4]}, []), "output 'y' is a single value"),
    "single value": (_graph(ADD, {"x": []}, []), "input 'x' is a single value, without rows"),
    "other sizes": (
        _graph([node("MatMul", ["a", "x"], ["y"])], {"x": [4, 2], "a": [3, 4]}, [3, 2]),
        "axis 0 of its inputs differs: 'x' [4, 2], 'a' [3, 4]",
    ),
    "one without a batch": (
        _graph([node("Mul", ["x", "s"], ["y"])], {"x": ["n", 4], "s": [1]}, ["n", 4]),
        "axis 0 of its inputs differs",
    ),
    "strings": (
        _graph([node("Identity", ["x"], ["y"])], {"x": ["n"]}, ["n"], kind=STRING),
        "input 'x' holds strings, which are not tried",
    ),
    "no inputs": (_graph([node("Identity", ["c"], ["y"])], {}, [1], {"c": np.ones(1, np.float32)}), "it has no inputs"),
    "large": (_graph(ADD, {"x": ["n", 1 << 25]}, ["n", 1 << 25]), "3 rows of its inputs have 402653184 bytes"),
}


@pytest.mark.parametrize("kind", NOT_BATCHED)
def test_others_are_not_and_the_log_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    model, expected = NOT_BATCHED[kind]
    (_, device), reason = _load(tmp_path, model, caplog)
    device.close()
    assert reason is not None
    assert expected in reason
    assert "\n" not in reason


async def test_a_file_that_is_not_batched_keeps_its_own_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started, _ = _load(tmp_path, NOT_BATCHED["a shape that is more than a shape"][0], caplog)
    size, y = await _answers(started, X[:1, :2])
    assert size == 0
    np.testing.assert_array_equal(y, X[:1, :2] + [1, 2])


def test_a_free_batch_axis_must_not_change_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = public_network("lenet", 17, 2).SerializeToString()
    session = bare_file._open(version(threads=1), model)
    other = bare_file._open(version(threads=1), bare_file.with_free_batch(model, {"data", "prob"}))
    row_trial.check_same(session, other)
    run = session.run
    monkeypatch.setattr(other, "run", lambda feeds: {"prob": run(feeds)["prob"] + 1})
    with pytest.raises(row_trial.Dependent, match="'prob' differs for rows with a free batch axis"):
        row_trial.check_same(session, other)


def _cyclic() -> onnx.ModelProto:
    return _graph(
        [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])], {"x": [1]}, [1]
    )


def _huge_constant() -> onnx.ModelProto:
    model = _graph([node("Add", ["x", "c"], ["y"])], {"x": ["n", 4]}, ["n", 4], {"c": np.zeros(4, np.float32)})
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    return model


HOSTILE = {
    "in a circle": (_cyclic(), "cannot load the graph"),
    "no graph": (b"no graph", "the ONNX file is damaged"),
    "empty": (b"", "cannot load the graph"),
    "huge input": (_graph(ADD, {"x": ["n", 1 << 20, 1 << 20]}, ["n", 1 << 20, 1 << 20]), "more than any request"),
    "huge constant": (_huge_constant(), "cannot load the graph"),
    "huge constant to be computed": (
        _graph(
            [node("ConstantOfShape", ["c"], ["d"]), node("Add", ["x", "d"], ["y"])],
            *({"x": ["n"]}, ["n"], {"c": np.array([1 << 33])}),
        ),
        "(ConstantOfShape) makes a constant of shape [8589934592]",
    ),
    "huge product": (_graph(ADD, {"x": [1 << 40] * 4}, [1 << 40] * 4), "more than any request"),
    "many inputs": (
        _graph([node("Relu", ["x0"], ["y"])], {f"x{i}": ["n"] for i in range(2000)}, ["n"]),
        "the graph has 2000 inputs; 1024 are served",
    ),
    "type": (_graph(ADD, {"x": ["n"]}, ["n"], kind=TensorProto.COMPLEX64), "tensor(complex64)"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    model, reason = HOSTILE[kind]
    with pytest.raises(ModelRefused) as refused:
        _load(tmp_path, model, caplog)
    assert reason in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 500


def test_pictures_that_are_divided_by_the_brightest_of_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=FLOAT),
        node("ReduceMax", ["f"], ["m"], keepdims=0),
        node("Div", ["f", "m"], ["y"]),
    ]
    model = _graph(nodes, {"x": ["n", 8]}, ["n", 8])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    (_, device), reason = _load(tmp_path, model, caplog)
    device.close()
    assert reason == "rows depend on each other: output 'y' differs for rows run alone"


def test_outputs_without_a_finite_value_tell_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [node("Abs", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Log", ["b"], ["y"])]
    (_, device), reason = _load(tmp_path, _graph(nodes, {"x": ["n", 8]}, ["n", 8]), caplog)
    device.close()
    assert reason == "output 'y' of random inputs has no finite value to compare"


def test_a_file_of_many_fields_is_not_searched_for_its_batch_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_axis, "_MAX_FIELDS", 50)
    with_free_batch(_graph(ADD, {"x": [1, 4]}, [1, 4]).SerializeToString(), {"x"})
    for model in (b"\x3a\x66" + b"\x0a\x00" * 51, b"\x3a\x68\x0a\x66" + b"\x2a\x00" * 51):
        with pytest.raises(ModelRefused, match="more than 50 fields"):
            with_free_batch(model, {"x"})
