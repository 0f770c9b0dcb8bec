"""Heatmaps of a real server: their means are the logits, over gRPC, streams and REST; models without say why."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from ...http.rest.asking_http import ask

# A version from before manifests said anything of heatmaps.
OLD = Path(__file__).parents[3] / "upgrades/versions"


@pytest.fixture(scope="module")
def channel(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def digit(samples: Path, truth: dict[str, dict[str, str]]) -> bytes:
    return (samples / next(name for name, entry in truth.items() if entry["model"] == "digits")).read_bytes()


def _request(digit: bytes, **more: object) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model="digits", image={"encoded": digit}, **more)


def _logits(channel: grpc.Channel, digit: bytes) -> np.ndarray:
    request = oip.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(digit)
    request.outputs.add(name="logits")
    answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    return np.frombuffer(answer.raw_output_contents[0], "<f4")


def test_the_mean_of_each_heatmap_and_its_bias_are_the_logit(channel: grpc.Channel, digit: bytes) -> None:
    vision = vision_pb2_grpc.VisionStub(channel)
    plain = vision.Classify(_request(digit, top_k=10), timeout=20)
    answer = vision.Classify(_request(digit, top_k=10, return_heatmap=True), timeout=20)
    assert [p.index for p in answer.predictions] == [p.index for p in plain.predictions]
    assert not plain.HasField("heatmap_area")
    assert not any(p.heatmap or p.heatmap_bias for p in plain.predictions)
    assert answer.heatmap_rows == answer.heatmap_columns > 1
    assert answer.heatmap_area == pb.Area(left=0, top=0, right=1, bottom=1)
    logits = _logits(channel, digit)
    # Other providers than the CPU's may compute in bf16.
    (session,) = vision.GetModel(pb.GetModelRequest(model="digits")).sessions
    rtol = 1e-4 if session.provider == "CPUExecutionProvider" else 0.05
    for prediction in answer.predictions:
        assert len(prediction.heatmap) == answer.heatmap_rows * answer.heatmap_columns
        assert np.ptp(prediction.heatmap) > 0
        found = np.mean(prediction.heatmap, dtype=np.float64) + prediction.heatmap_bias
        assert found == pytest.approx(logits[prediction.index], abs=float(rtol * np.abs(logits).max()))


def test_the_tensor_protocol_does_not_show_the_feature_map(channel: grpc.Channel, digit: bytes) -> None:
    details = vision_pb2_grpc.VisionStub(channel).GetModel(pb.GetModelRequest(model="digits"))
    assert [output.name for output in details.outputs] == ["probabilities", "logits", "features"]
    assert details.manifest.classifier.heatmaps.rows > 1
    request = oip.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(digit)
    answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert [output.name for output in answer.outputs] == ["probabilities", "logits", "features"]


def test_a_stream_mixes_requests_with_and_without(channel: grpc.Channel, digit: bytes) -> None:
    requests = [_request(digit, id=str(i), top_k=1, return_heatmap=i % 3 == 0) for i in range(24)]
    answers = list(vision_pb2_grpc.VisionStub(channel).ClassifyStream(iter(requests), timeout=30))
    maps = {int(answer.id): answer.response.predictions[0].heatmap for answer in answers}
    assert sorted(maps) == list(range(24))
    assert all(bool(maps[i]) == (i % 3 == 0) for i in maps)
    for i in range(3, 24, 3):
        assert list(maps[i]) == pytest.approx(list(maps[0]), rel=1e-3, abs=1e-3)


def test_rest_gives_the_same(demo_server, channel: grpc.Channel, digit: bytes) -> None:
    expected = vision_pb2_grpc.VisionStub(channel).Classify(_request(digit, top_k=2, return_heatmap=True), timeout=20)
    answer = ask(demo_server.http, "/v1/classify/digits?top_k=2&return_heatmap=true", digit).json
    assert (answer["heatmap_rows"], answer["heatmap_columns"]) == (expected.heatmap_rows, expected.heatmap_columns)
    assert answer["heatmap_area"] == {"left": 0, "top": 0, "right": 1, "bottom": 1}
    for given, prediction in zip(answer["predictions"], expected.predictions, strict=True):
        assert given["heatmap"] == pytest.approx(list(prediction.heatmap), rel=1e-3, abs=1e-3)
        assert math.isclose(given["heatmap_bias"], prediction.heatmap_bias, rel_tol=1e-6)
    assert "heatmap" not in ask(demo_server.http, "/v1/classify/digits", digit).json["predictions"][0]


def test_an_old_export_serves_and_says_why_it_has_none(start_server, digit: bytes, tmp_path: Path) -> None:
    old = sorted(OLD.iterdir())[-1]
    shutil.copytree(old / "classifier", tmp_path / "digits")
    with start_server(tmp_path) as server, grpc.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        assert vision.Classify(_request(digit), timeout=20).predictions
        with pytest.raises(grpc.RpcError) as raised:
            vision.Classify(_request(digit, return_heatmap=True), timeout=20)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "export it again" in raised.value.details()
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(raised.value).details
        assert any(each.Unpack(info) and info.reason == "NO_HEATMAPS" for each in details)
        requests = [_request(digit, id="a", return_heatmap=True), _request(digit, id="b")]
        found = {each.id: each for each in vision.ClassifyStream(iter(requests), timeout=20)}
        assert (found["a"].error.code, found["a"].error.reason) == ("UNIMPLEMENTED", "NO_HEATMAPS")
        assert found["b"].response.predictions
        refused = ask(server.http, "/v1/classify/digits?return_heatmap=true", digit)
        assert (refused.status, refused.json["reason"]) == (501, "NO_HEATMAPS")
        reasons = server.metric("resonnx_request_errors_total", reason="NO_HEATMAPS")
        assert reasons == 3
