"""What JSON has no number for; rpc/oip/extensions/test_same_answers.py has what is the same bit by bit."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ....conftest import RunningServer, StartServer
from .asking_http import infer_binary, infer_json


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Models that return what comes in, of three datatypes."""
    repository = tmp_path_factory.mktemp("models")
    kinds = {"FP32": TensorProto.FLOAT, "BF16": TensorProto.BFLOAT16, "BYTES": TensorProto.STRING}
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


def _listed(array: np.ndarray) -> Any:
    """Return nested lists, without what strict JSON lacks."""
    return json.loads(json.dumps(array.tolist()), parse_constant=str)


def test_not_a_number(server: RunningServer) -> None:
    array = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    answer = infer_json(server.http, "FP32", {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": _listed(array)})
    assert answer.json["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", -0.0]
    np.testing.assert_array_equal(answer.arrays()["y"], array)


def test_bfloat16_is_rounded_and_bounded(server: RunningServer) -> None:
    tensor = {"name": "x", "datatype": "BF16", "shape": [1, 4], "data": [1.00390625, 1.01171875, "NaN", 3.38e38]}
    answer = infer_json(server.http, "BF16", tensor)
    assert answer.json["outputs"][0]["data"] == [1.0, 1.015625, "NaN", 3.3762391092936863e38]
    refused = infer_json(server.http, "BF16", {**tensor, "data": [1, 2, 3, 3.4e38]})
    assert (refused.status, "is not within -3.39e38..3.39e38" in refused.json["error"]) == (400, True)
    refused = infer_json(server.http, "BF16", {**tensor, "data": [True, 2, 3, 4]})
    assert (refused.status, refused.json["reason"]) == (400, "INVALID_INPUT")


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
