"""MLServer's client side: its types and codecs over REST, its converters and stubs over gRPC, and `mlserver infer`."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
from checks import PIXELS, Started, X, same, started
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RequestOutput,
)


def get(told: Started, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{told.http}{path}", timeout=20) as answer:
        content: bytes = answer.read()
        return content


def post(told: Started, path: str, asked: InferenceRequest) -> InferenceResponse:
    body = asked.model_dump_json().encode()
    request = urllib.request.Request(f"http://{told.http}{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return InferenceResponse.model_validate_json(answer.read())


def rest(told: Started) -> None:
    assert MetadataServerResponse.model_validate_json(get(told, "/v2")).name == "resonnx"
    model = MetadataModelResponse.model_validate_json(get(told, "/v2/models/digits"))
    assert model.inputs is not None
    assert model.inputs[0].name == "image"
    assert MetadataModelResponse.model_validate_json(get(told, "/v2/models/digits/versions/1")).name == "digits"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready"):
        get(told, path)
    pixels = NumpyCodec.encode_input("image", PIXELS)
    asked = InferenceRequest(
        id="m", inputs=[pixels], outputs=[RequestOutput(name="logits")], parameters=Parameters(priority=1)
    )
    answers = [post(told, f"/v2/models/digits{version}/infer", asked) for version in ("", "/versions/1")]
    assert {answer.id for answer in answers} == {"m"}
    same([NumpyCodec.decode_output(answer.outputs[0]) for answer in answers])
    rows = NumpyRequestCodec.encode_request(X)
    rows.inputs[0].name, rows.inputs[0].datatype = "x", "FP32"
    (doubled,) = post(told, "/v2/models/doubling/infer", rows).outputs
    assert np.array_equal(NumpyCodec.decode_output(doubled), 2 * X)
    text = InferenceRequest(inputs=[StringCodec.encode_input("x", ["a", "", "ü"])])
    text.inputs[0].shape = [1, 3]
    (same_text,) = post(told, "/v2/models/identity_bytes/infer", text).outputs
    assert StringCodec.decode_output(same_text) == ["a", "", "ü"]


def over_grpc(told: Started) -> None:
    with grpc.insecure_channel(told.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="digits", version="1")).ready
        assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "resonnx"
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="digits", version="1")).inputs[0].name == "image"
        asked = InferenceRequest(id="m", inputs=[NumpyCodec.encode_input("x", X)], outputs=[RequestOutput(name="y")])
        answers = [2 * X]
        # The converter takes the data out of a request that it makes raw.
        for raw in (False, True):
            message = ModelInferRequestConverter.from_types(
                asked, model_name="doubling", model_version="1", use_raw=raw
            )
            answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=20))
            assert answer.id == "m"
            answers.append(NumpyCodec.decode_output(answer.outputs[0]))
        same(answers)
        arrays = [
            np.array([[0, 1, 100]]).astype(kind) for kind in (np.int32, np.int64, np.uint32, np.uint64, np.float64)
        ]
        arrays.append(np.array([[True, False, True]]))
        for array in arrays:
            given = NumpyCodec.encode_input("x", array)
            name = f"identity_{given.datatype.lower()}"
            message = ModelInferRequestConverter.from_types(InferenceRequest(inputs=[given]), model_name=name)
            answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=20))
            assert np.array_equal(NumpyCodec.decode_output(answer.outputs[0]), array), name
        text = StringCodec.encode_input("x", ["a", "", "ü"])
        text.shape = [1, 3]
        message = ModelInferRequestConverter.from_types(InferenceRequest(inputs=[text]), model_name="identity_bytes")
        answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=20))
        assert StringCodec.decode_output(answer.outputs[0]) == ["a", "", "ü"]


def command(told: Started) -> None:
    """`mlserver infer` reads requests, one a line, and writes answers."""
    asked, answered = Path(told.folder) / "asked", Path(told.folder) / "answered"
    line = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [0.5, 1, 2]}]}
    asked.write_text(f"{json.dumps(line)}\n" * 4)
    program = Path(sys.executable).with_name("mlserver")
    arguments = ["-u", told.http, "-m", "doubling", "-i", str(asked), "-o", str(answered), "-w", "2"]
    done = subprocess.run([program, "infer", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(each) for each in answered.read_text().splitlines()]
    assert [answer["outputs"][0]["data"] for answer in answers] == [[1, 2, 4]] * 4, answers


if __name__ == "__main__":
    addresses = started()
    rest(addresses)
    over_grpc(addresses)
    command(addresses)
    print("done")
