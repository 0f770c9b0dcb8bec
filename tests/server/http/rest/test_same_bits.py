"""Typed gRPC, raw gRPC, JSON and binary data: the same request has the same answer, bit by bit."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ....conftest import RunningServer, StartServer, examples
from .asking_http import infer_binary, infer_json

# By datatype: ONNX's, NumPy's, the field of typed contents.
KINDS = {
    "FP32": (TensorProto.FLOAT, "<f4", "fp32_contents"),
    "FP64": (TensorProto.DOUBLE, "<f8", "fp64_contents"),
    "INT64": (TensorProto.INT64, "<i8", "int64_contents"),
    "INT32": (TensorProto.INT32, "<i4", "int_contents"),
    "UINT8": (TensorProto.UINT8, "u1", "uint_contents"),
    "UINT64": (TensorProto.UINT64, "<u8", "uint64_contents"),
    "BOOL": (TensorProto.BOOL, "?", "bool_contents"),
    "FP16": (TensorProto.FLOAT16, "<f2", None),
}


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Models that return what comes in, one of each datatype."""
    repository = tmp_path_factory.mktemp("models")
    kinds = {name: kind for name, (kind, *_) in KINDS.items()} | {"BYTES": TensorProto.STRING}
    for name, kind in kinds.items():
        node = helper.make_node("Identity", ["x"], ["y"])
        inputs, outputs = ([helper.make_tensor_value_info(tensor, kind, ["n", "m"])] for tensor in "xy")
        graph = helper.make_graph([node], "same", inputs, outputs)
        path = repository / name / "1/model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with start_server(repository) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[grpc_service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _grpc(stub: Any, name: str, array: np.ndarray, field: str | None) -> bytes:
    request = pb.ModelInferRequest(model_name=name)
    given_ = request.inputs.add(name="x", datatype=name, shape=array.shape)
    if field is None:
        request.raw_input_contents.append(array.tobytes())
    else:
        getattr(given_.contents, field).extend(array.ravel().tolist())
    (raw,) = stub.ModelInfer(request, timeout=20).raw_output_contents
    return bytes(raw)


@pytest.mark.parametrize("name", KINDS)
@examples(15)
@given(data=st.data())
def test_numbers(server: RunningServer, stub: Any, name: str, data: st.DataObject) -> None:
    _, dtype, field = KINDS[name]
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=5))
    # Of NaN, JSON keeps no bits.
    elements = arrays.from_dtype(np.dtype(dtype), allow_nan=False)
    array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    raw = _grpc(stub, name, array, None)
    assert raw == array.tobytes()
    if field is not None:
        assert _grpc(stub, name, array, field) == raw
    nested = {"name": "x", "datatype": name, "shape": shape, "data": _listed(array)}
    assert infer_json(server.http, name, nested).arrays()["y"].tobytes() == raw
    assert infer_binary(server.http, name, "x", array, name).arrays()["y"].tobytes() == raw


def _listed(array: np.ndarray) -> Any:
    """Return nested lists, without what strict JSON lacks."""
    return json.loads(json.dumps(array.tolist()), parse_constant=str)


def test_not_a_number(server: RunningServer) -> None:
    array = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    answer = infer_json(server.http, "FP32", {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": _listed(array)})
    assert answer.json["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", -0.0]
    np.testing.assert_array_equal(answer.arrays()["y"], array)


def test_strings_and_other_bytes(server: RunningServer, stub: Any) -> None:
    texts = {"name": "x", "datatype": "BYTES", "shape": [1, 3], "data": ["", "zwölf", 'a"\\\n']}
    output = infer_json(server.http, "BYTES", texts).json["outputs"][0]
    assert (output["data"], "parameters" in output) == (texts["data"], False)
    other = {**texts, "data": ["/w==", "AA==", "YQ=="], "parameters": {"content_type": "base64"}}
    output = infer_json(server.http, "BYTES", other).json["outputs"][0]
    assert (output["data"], output["parameters"]) == (other["data"], {"content_type": "base64"})
    elements = [b"\xff", b"\0", b"a"]
    raw = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    request = pb.ModelInferRequest(model_name="BYTES", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 3])
    assert stub.ModelInfer(request, timeout=20).raw_output_contents[0] == raw
    answer = infer_binary(server.http, "BYTES", "x", np.frombuffer(raw, np.uint8), "BYTES")
    assert answer.status == 400, "its shape is not that of the strings"
