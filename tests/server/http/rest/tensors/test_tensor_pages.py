"""The Open Inference Protocol in JSON, against a real server of the demo models."""

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..asking_http import Answered, ask, infer_binary, infer_json


def _pixels(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)


def _json_input(array: np.ndarray, *, flat: bool = False) -> dict[str, Any]:
    data = array.ravel() if flat else array
    return {"name": "image", "datatype": "UINT8", "shape": array.shape, "data": data.tolist()}


def _by_grpc(address: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of a raw request."""
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=array.shape)
    with grpc.insecure_channel(address) as channel:
        answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    given = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: np.frombuffer(raw, np.float32).reshape(output.shape) for output, raw in given}


def test_what_a_client_asks_first(demo_server) -> None:
    about = ask(demo_server.http, "/v2")
    assert about.headers["Content-Type"] == "application/json"
    assert about.json["name"] == "resonnx"
    assert {"binary_tensor_data", "statistics"} <= {*about.json["extensions"]}
    assert ask(demo_server.http, "/v2/health/live").json == {"live": True}
    assert ask(demo_server.http, "/v2/health/ready").json == {"ready": True}
    for path in ("/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
        assert ask(demo_server.http, path).json == {"name": "digits", "ready": True}
    model = ask(demo_server.http, "/v2/models/digits/versions/1").json
    assert (model["name"], model["versions"], model["platform"]) == ("digits", ["1"], "onnxruntime_onnx")
    assert model["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    assert ask(demo_server.http, "/v2/models/digits").json == model
    config = ask(demo_server.http, "/v2/models/digits/versions/1/config").json
    assert (config["name"], config["input"][0]["data_type"], config["input"][0]["dims"]) == (
        "digits",
        "TYPE_UINT8",
        [32, 32, 3],
    )
    # Fields without a value are there, as Triton writes them.
    assert config["model_transaction_policy"] == {"decoupled": False}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/ready",
        "/config",
        "/stats",
        "/versions/7",
        "/versions/7/ready",
        "/versions/7/stats",
        "/versions/canary/ready",
    ],
)
def test_models_and_versions_that_are_not_there(demo_server, path: str) -> None:
    name = "digits" if "versions" in path else "nope"
    answer = ask(demo_server.http, f"/v2/models/{name}{path}")
    assert (answer.status, answer.json["reason"]) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_numbers_in_json_and_as_binary_data_are_answered_as_by_grpc(demo_server, rows: int, flat: bool) -> None:
    pixels = _pixels(rows)
    expected = _by_grpc(demo_server.grpc, pixels)
    by_json = infer_json(demo_server.http, "digits", _json_input(pixels, flat=flat), id="seven").arrays()
    by_binary = infer_binary(demo_server.http, "digits", "image", pixels, "UINT8", id="seven").arrays()
    assert by_json.keys() == by_binary.keys() == expected.keys()
    for name, array in expected.items():
        assert by_json[name].tobytes() == by_binary[name].tobytes() == array.tobytes()


def test_an_answer_names_the_model_its_version_and_the_request(demo_server) -> None:
    answer = infer_json(demo_server.http, "digits/versions/1", _json_input(_pixels()), id="seven")
    assert answer.headers["Content-Type"] == "application/json"
    shown = {key: answer.json[key] for key in ("model_name", "model_version", "id")}
    assert shown == {"model_name": "digits", "model_version": "1", "id": "seven"}
    assert "id" not in infer_json(demo_server.http, "digits", _json_input(_pixels())).json


def test_some_outputs_as_binary_data_and_others_in_json(demo_server) -> None:
    pixels = _pixels()
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    answer = infer_json(demo_server.http, "digits", _json_input(pixels), outputs=outputs)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    expected = _by_grpc(demo_server.grpc, pixels)
    arrays = answer.arrays()
    assert [*arrays] == ["logits", "probabilities"]
    assert all(arrays[name].tobytes() == expected[name].tobytes() for name in arrays)


def test_picture_files_are_base64_in_json(demo_server, samples: Path, truth: dict[str, dict[str, str]]) -> None:
    names = [name for name, entry in truth.items() if entry["model"] == "digits"][:3]
    files = [(samples / name).read_bytes() for name in names]
    data = [base64.b64encode(file).decode() for file in files]
    classes = {"name": "probabilities", "parameters": {"classification": 1}}
    given = {"name": "image", "datatype": "BYTES", "shape": [3, 1], "data": data}
    answer = infer_json(demo_server.http, "digits", given, outputs=[classes])
    best = [text.rpartition(":")[2] for text in answer.json["outputs"][0]["data"]]
    assert best == [truth[name]["label"] for name in names]
    assert infer_json(demo_server.http, "digits", {**given, "data": ["no!"] * 3}).json["reason"] == "INVALID_INPUT"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_requests_and_answers(demo_server, encoding: str, pack: Any) -> None:
    pixels = _pixels(3)
    body = json.dumps({"inputs": [_json_input(pixels)]}).encode()
    headers = {"Content_Encoding": encoding, "Accept_Encoding": "gzip"}
    answer = ask(demo_server.http, "/v2/models/digits/infer", pack(body), **headers)
    assert answer.headers["Content-Encoding"] == "gzip"
    unpacked = Answered(answer.status, answer.headers, gzip.decompress(answer.body)).arrays()
    assert unpacked["logits"].tobytes() == _by_grpc(demo_server.grpc, pixels)["logits"].tobytes()


def test_parameters_act_as_by_grpc(demo_server) -> None:
    given = _json_input(_pixels())
    refused = infer_json(demo_server.http, "digits", given, parameters={"priority": 9})
    assert (refused.status, refused.json["field"]) == (400, "parameters['priority']")
    refused = infer_json(demo_server.http, "digits", given, parameters={"triton_x": 1})
    assert refused.status == 400
    assert "reserved" in refused.json["error"]
    taken = {"priority": 1, "headers": {"any": ["thing"]}, "content_type": "np", "large": 2**64 - 1, "x": 0.5}
    assert infer_json(demo_server.http, "digits", given, parameters=taken).status == 200


def test_a_deadline_that_cannot_be_met_is_refused(demo_server) -> None:
    body = json.dumps({"inputs": [_json_input(_pixels())]}).encode()
    late = ask(demo_server.http, "/v2/models/digits/infer", body, Grpc_Timeout="1n")
    assert late.status == 504
    assert late.json["reason"] in ("DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE")
    assert ask(demo_server.http, "/v2/models/digits/infer", body, Grpc_Timeout="20S").status == 200
    assert ask(demo_server.http, "/v2/models/digits/infer", body, Grpc_Timeout="20").status == 400


def _input(**changed: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072} | changed


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "not JSON"),
        (b"[1, 2]", 400, "must be a JSON object"),
        (b'{"inputs": [1, 2}', 400, "brackets do not match"),
        (b'{"inputs": [' + b"[" * 60_000, 400, "nested deeper"),
        ({"inputs": 7}, 400, "inputs: must be an array"),
        ({"inputs": [7]}, 400, "inputs[0]: must be a JSON object"),
        ({}, 400, "none is given"),
        ({"inputs": [_input(name=7)]}, 400, "name must be a string"),
        ({"inputs": [_input(datatype="FLOAT")]}, 400, "'FLOAT' is not one of"),
        ({"inputs": [_input(shape=[1.5])]}, 400, "must be an array of whole numbers"),
        ({"inputs": [_input(shape=[2**70])]}, 400, "64 bits"),
        ({"inputs": [_input(data=7)]}, 400, "data must be an array"),
        ({"inputs": [_input(data=[0] * 3071)]}, 400, "3071 values; the shape has 3072"),
        ({"inputs": [_input(data=[0] * 3073)]}, 400, "more than 3072 values"),
        ({"inputs": [_input(data=[256] * 3072)]}, 400, "not within 0..255"),
        ({"inputs": [_input(data=[0.5] * 3072)]}, 400, "must be whole numbers"),
        ({"inputs": [_input(data=["1"] * 3072)]}, 400, "must be whole numbers"),
        ({"inputs": [_input(data=[{}] * 3072)]}, 400, "an array of numbers, booleans or strings"),
        ({"inputs": [_input(shape=[10**9, 32, 32, 3])]}, 400, "more than 1024"),
        ({"inputs": [_input(parameters={"binary_data_size": 3072})]}, 400, "both data and"),
        ({"inputs": [{**_input(parameters={"binary_data_size": 3072}), "data": None}]}, 400, "0 are left in the body"),
        ({"inputs": [_input()], "id": "x" * 257}, 400, "id has 257 bytes"),
        ({"inputs": [_input()], "outputs": [{"name": "none"}]}, 400, "'none' is not one of"),
        ({"inputs": [_input()], "parameters": [1]}, 400, "parameters: must be a JSON object"),
        ({"inputs": [_input()], "parameters": {"x": "y" * (1 << 18)}}, 400, "bytes of JSON beside"),
    ],
)
def test_what_does_not_fit_is_refused(demo_server, body: Any, status: int, error: str) -> None:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = ask(demo_server.http, "/v2/models/digits/infer", body)
    assert (answer.status, error in answer.json["error"]) == (status, True), answer.json


@pytest.mark.parametrize("size", ["-1", "x", "1e3", "9" * 30, "7"])
def test_header_lengths_that_are_wrong(demo_server, size: str) -> None:
    body = json.dumps({"inputs": [_input()]}).encode()
    answer = ask(demo_server.http, "/v2/models/digits/infer", body, Inference_Header_Content_Length=size)
    assert answer.status == 400
    assert answer.json["error"]
    longer = str(len(body) + 1)
    answer = ask(demo_server.http, "/v2/models/digits/infer", body, Inference_Header_Content_Length=longer)
    assert f"Inference-Header-Content-Length is {longer}" in answer.json["error"]
    answer = ask(
        demo_server.http, "/v2/models/digits/infer", body + b"x", Inference_Header_Content_Length=str(len(body))
    )
    assert "1 bytes follow" in answer.json["error"]


def test_unknown_pages_and_methods_are_answered_in_json(demo_server) -> None:
    for path, body, status in (("/v2/models", None, 404), ("/v2/models/digits/infer", None, 405), ("/v2", b"", 405)):
        answer = ask(demo_server.http, path, body)
        assert answer.status == status, path
        assert answer.json["error"]
    answer = ask(demo_server.http, "/v2/models/digits/infer", b"{}", Content_Encoding="br")
    assert (answer.status, answer.json["reason"]) == (415, "NOT_SUPPORTED")


def test_answers_count_in_the_models_statistics(demo_server) -> None:
    before = demo_server.metric("nv_inference_request_success", model="digits")
    assert infer_json(demo_server.http, "digits", _json_input(_pixels())).status == 200
    assert demo_server.metric("nv_inference_request_success", model="digits") == before + 1
    assert demo_server.metric("resonnx_requests_in_progress", model="digits") == 0
    assert demo_server.metric("resonnx_memory_requests_bytes") == 0


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [("", "", ""), ("/digits", "digits", ""), ("/digits/versions/1", "digits", "1")],
)
def test_statistics_are_those_of_grpc(demo_server, path: str, name: str, version: str) -> None:
    assert infer_json(demo_server.http, "digits", _json_input(_pixels())).status == 200
    with grpc.insecure_channel(demo_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        expected = stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version))
    answer = ask(demo_server.http, f"/v2/models{path}/stats")
    assert json_format.ParseDict(answer.json, pb.ModelStatisticsResponse()) == expected
    assert [each["name"] for each in answer.json["model_stats"]] == (["digits"] if name else ["digits", "scenes"])
    counted = answer.json["model_stats"][0]
    assert (counted["version"], counted["inference_stats"]["success"]["count"] > 0) == ("1", True)


def test_the_index_of_the_repository(demo_server) -> None:
    path = "/v2/repository/index"
    ready = [{"name": name, "version": "1", "state": "READY"} for name in ("digits", "scenes")]
    for body in (b"", b"{}", b'{"ready": true}'):
        answer = ask(demo_server.http, path, body)
        assert (answer.status, answer.json) == (200, ready)
    rejected = demo_server.metric("resonnx_rejected_calls_total", reason="INVALID_INPUT")
    for body, error in ((b"[]", "JSON object"), (b'{"ready": 1}', "JSON object"), (b" " * 5000, "5000 bytes")):
        answer = ask(demo_server.http, path, body)
        assert (answer.status, error in answer.json["error"]) == (400, True), answer.body
    assert ask(demo_server.http, path, b"{").json["reason"] == "MESSAGE_UNREADABLE"
    assert demo_server.metric("resonnx_rejected_calls_total", reason="INVALID_INPUT") == rejected + 3
    assert ask(demo_server.http, path).status == 405


@pytest.mark.parametrize(
    "written",
    [
        '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "d\\u0061ta": -1}]}',
        '{"inputs": [], "parameters": {"\\ud800": 1}}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1], "parameters": {"\\ud800": ""}}]}',
    ],
)
def test_json_that_only_escapes_can_write_is_the_caller_s_fault(demo_server, written: str) -> None:
    answer = ask(demo_server.http, "/v2/models/digits/infer", written.encode())
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_INPUT")
