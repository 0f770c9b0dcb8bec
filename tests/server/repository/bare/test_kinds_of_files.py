"""ONNX files of the kinds that exporters write are batched, and answer as ONNX Runtime does alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.scheduling.device import Device

from ...asking import infer
from ...onnx_classifier import version
from ...public_networks import public_network

RNG = np.random.default_rng(0)
node = helper.make_node


def _network(
    kind: type[np.floating] = np.float32, name: str = "data", size: int | str = 16, last: bool = False
) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, a pool over the plane, Gemm."""
    shapes = {"w0": (4, 3, 3, 3), "g": (4,), "b": (4,), "m": (4,), "w1": (5, 4), "c": (5,)}
    weights = {name: RNG.normal(0, 0.4, shape) for name, shape in shapes.items()} | {"v": RNG.uniform(0.5, 1.5, 4)}
    first = [node("Transpose", [name], ["planes"], perm=[0, 3, 1, 2])] if last else []
    nodes = [
        *first,
        node("Conv", ["planes" if last else name, "w0"], ["conv"], kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", ["conv", "g", "b", "m", "v"], ["norm"]),
        node("Relu", ["norm"], ["relu"]),
        node("GlobalAveragePool", ["relu"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "w1", "c"], ["prob"], transB=1),
    ]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    row = [size, size, 3] if last else [3, size, size]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, element, ["N", *row])],
        [helper.make_tensor_value_info("prob", element, ["N", 5])],
        [numpy_helper.from_array(array.astype(kind), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def _video() -> onnx.ModelProto:
    """[N,T,F] by an LSTM over T, whose last state is classified."""
    shapes = {"w": (1, 24, 4), "r": (1, 24, 6), "head": (6, 5)}
    weights = [numpy_helper.from_array(RNG.normal(0, 0.4, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        node("Transpose", ["data"], ["steps"], perm=[1, 0, 2]),
        node("LSTM", ["steps", "w", "r"], ["", "last"], hidden_size=6),
        node("Squeeze", ["last", "first"], ["state"]),
        node("MatMul", ["state", "head"], ["prob"]),
    ]
    graph = helper.make_graph(
        nodes,
        "video",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 4])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["N", 5])],
        [*weights, numpy_helper.from_array(np.array([0]), "first")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


class _Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self._rest = [{"data": RNG.normal(size=(2, 3, 16, 16)).astype(np.float32)} for _ in range(3)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._rest.pop() if self._rest else None


def _quantised(kind: QuantFormat, path: Path) -> None:
    onnx.save(_network(), path.with_name("float.onnx"))
    quantize_static(path.with_name("float.onnx"), path, _Calibration(), quant_format=kind)


KINDS: dict[str, onnx.ModelProto | Callable[[Path], None]] = {
    "fp16": _network(np.float16),
    "channels last": _network(last=True),
    "name with a dot": _network(name="input.1"),
    "free size": _network(size="H"),
    "int8, QDQ": lambda path: _quantised(QuantFormat.QDQ, path),
    "int8, QOperator": lambda path: _quantised(QuantFormat.QOperator, path),
    "video": _video(),
    "weights as inputs": public_network("vgg", 8, "N"),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_batched_and_answers_as_onnx_runtime_alone(tmp_path: Path, kind: str) -> None:
    path, model = tmp_path / "model.onnx", KINDS[kind]
    if callable(model):
        model(path)
    else:
        onnx.save(model, path)
    device = Device("cpu", 1)
    loading = replace(version(device, threads=1, max_batch_size=3), folder=ModelFolder("m", 1, tmp_path))
    served = bare_file.load(loading)()
    assert served.max_batch_size == 3
    (spec,) = served.inputs
    shape = [16 if not isinstance(size, int) else size for size in spec.shape[1:]]
    x = RNG.normal(size=(3, *shape)).astype(spec.dtype)
    outputs, _ = await infer(served.engine, {spec.name: x})
    served.engine.close()
    device.close()
    alone = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.concatenate([alone.run(["prob"], {spec.name: row[None]})[0] for row in x])
    np.testing.assert_allclose(outputs["prob"], expected, rtol=1e-2 if spec.dtype == np.float16 else 1e-4, atol=1e-3)
