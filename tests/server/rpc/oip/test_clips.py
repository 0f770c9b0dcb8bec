"""Clips by the tensor protocol: files, pixels and features, of one length or padded, and the models' descriptions."""

import io
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping

import grpc
import numpy as np
import pytest
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ....running import RunningServer
from ... import clip_model
from ...clip_model import CLASSES, FEATURES, LABELS, SIDE, clip, logits_of

Infer = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def stub(video_server: RunningServer) -> Iterator[grpc_service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(video_server.grpc) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(model: str, inputs: Mapping[str, np.ndarray]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = {"u": "UINT8", "f": "FP32", "i": "INT64", "O": "BYTES"}[array.dtype.kind]
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if datatype == "BYTES":
            files = [len(each).to_bytes(4, "little") + each for each in array.ravel()]
            request.raw_input_contents.append(b"".join(files))
        else:
            request.raw_input_contents.append(array.tobytes())
    return request


@pytest.fixture
def infer(stub: grpc_service_pb2_grpc.GRPCInferenceServiceStub) -> Infer:
    def call(model: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        answer = stub.ModelInfer(request_of(model, inputs), timeout=30)
        return {
            output.name: np.frombuffer(content, np.float32).reshape(output.shape)
            for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }

    return call


def files_of(clips: np.ndarray) -> np.ndarray:
    found = np.empty(clips.shape[:-3], object)
    for place in np.ndindex(*found.shape):
        written = io.BytesIO()
        Image.fromarray(clips[place]).save(written, "PNG")
        found[place] = written.getvalue()
    return found


def test_clips_of_pixels_and_files_are_classified(infer: Infer) -> None:
    clips, version = np.stack([clip(5, seed) for seed in range(3)]), clip_model.files()
    expected = np.stack([logits_of(version, each) for each in clips])
    for inputs in ({"image": clips}, {"image": files_of(clips)}, {"encoded_image": files_of(clips)}):
        outputs = infer("motions", **inputs)
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
        np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
    # A single clip needs no axis of clips.
    for one in (clips[0], files_of(clips[0])):
        np.testing.assert_allclose(infer("motions", image=one)["logits"], expected[:1], atol=1e-5)


def test_padded_clips_are_those_of_their_lengths(infer: Infer) -> None:
    clips, lengths, version = np.stack([clip(6, seed) for seed in range(3)]), [6, 1, 4], clip_model.files()
    expected = np.stack([logits_of(version, each[:length]) for each, length in zip(clips, lengths, strict=True)])
    for shape in ((3,), (3, 1)):
        given = np.array(lengths, np.int64).reshape(shape)
        for image in (clips, files_of(clips)):
            np.testing.assert_allclose(infer("motions", image=image, lengths=given)["logits"], expected, atol=1e-5)
    # Files beyond a clip's length are not read.
    files = files_of(clips)
    files[1, 1:] = b""
    given = np.array(lengths, np.int64)
    np.testing.assert_allclose(infer("motions", image=files, lengths=given)["logits"], expected, atol=1e-5)


def test_sequences_of_given_features_are_classified(infer: Infer) -> None:
    version = clip_model.files(given=True)
    features = np.random.default_rng(1).standard_normal((4, 9, FEATURES), np.float32)
    lengths = np.array([9, 3, 1, 8], np.int64)
    expected = np.stack([logits_of(version, each[:length]) for each, length in zip(features, lengths, strict=True)])
    np.testing.assert_allclose(infer("numbers", features=features, lengths=lengths)["logits"], expected, atol=1e-5)


def test_sequences_come_as_json_too(video_server: RunningServer) -> None:
    features = np.random.default_rng(2).standard_normal((2, 3, FEATURES), np.float32)
    inputs = [
        {"name": "features", "datatype": "FP32", "shape": [2, 3, FEATURES], "data": features.ravel().tolist()},
        {"name": "lengths", "datatype": "INT64", "shape": [2], "data": [3, 2]},
    ]
    body = json.dumps({"inputs": inputs}).encode()
    asked = urllib.request.Request(f"http://{video_server.http}/v2/models/numbers/infer", body)
    with urllib.request.urlopen(asked, timeout=30) as response:
        (logits,) = (each["data"] for each in json.load(response)["outputs"] if each["name"] == "logits")
    version = clip_model.files(given=True)
    expected = np.stack([logits_of(version, features[0]), logits_of(version, features[1, :2])])
    np.testing.assert_allclose(np.reshape(logits, (2, CLASSES)), expected, atol=1e-5)
    status, described = video_server.get("/v1/models/numbers")
    assert status == 200
    assert "input" not in (told := json.loads(described))
    assert (told["classes"], told["max_frames"], told["is_streamed"]) == (CLASSES, 64, True)


def test_the_best_classes_have_the_models_labels(stub: grpc_service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    request = request_of("motions", {"image": clip(4)[np.newaxis]})
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 1
    answer = stub.ModelInfer(request, timeout=30)
    (written,) = answer.raw_output_contents
    assert written[4:].decode().split(":")[2] == LABELS[int(logits_of(clip_model.files(), clip(4)).argmax())]


def test_models_of_clips_are_described(stub: grpc_service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    def inputs(model: str) -> list[tuple[str, str, list[int]]]:
        found = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=30).inputs
        return [(each.name, each.datatype, list(each.shape)) for each in found]

    lengths = ("lengths", "INT64", [-1, 1])
    pixels, files = ("image", "UINT8", [-1, -1, SIDE, SIDE, 3]), ("encoded_image", "BYTES", [-1, -1])
    assert inputs("motions") == inputs("both-ways") == [pixels, files, lengths]
    assert inputs("numbers") == [("features", "FP32", [-1, -1, FEATURES]), lengths]
    config = stub.ModelConfig(pb.ModelConfigRequest(name="motions"), timeout=30).config
    assert [(each.name, list(each.dims), each.optional) for each in config.input] == [
        ("image", [-1, SIDE, SIDE, 3], True),
        ("encoded_image", [-1], True),
        ("lengths", [1], True),
    ]
    assert [(each.name, list(each.dims)) for each in config.output] == [
        ("probabilities", [CLASSES]),
        ("logits", [CLASSES]),
    ]
    assert config.parameters["task"].string_value == "TASK_VIDEO_CLASSIFIER"


LENGTHS = {"lengths": np.array([2], np.int64)}


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("motions", {"image": np.zeros((1, 65, SIDE, SIDE, 3), np.uint8)}, "65 frames to read, more than 64"),
        ("motions", {"image": np.zeros((20, 60, SIDE, SIDE, 3), np.uint8)}, "1200 frames of several clips, more than"),
        ("motions", {"image": np.zeros((1, 2, SIDE, 5, 3), np.uint8)}, "UINT8 must be [N, T, 4, 4, 3]"),
        ("motions", {"image": np.zeros((1, 0, SIDE, SIDE, 3), np.uint8)}, "N and T >= 1"),
        ("motions", {"image": np.zeros((1, 2, 3), np.float32)}, "the model takes UINT8 pixels as 'image', or BYTES"),
        ("motions", LENGTHS, "frames are missing"),
        (
            "motions",
            {"image": clip(3)[np.newaxis], "lengths": np.array([4], np.int64)},
            "4 of clip 0 is not within 1..3",
        ),
        ("motions", {"image": clip(3)[np.newaxis], "lengths": np.array([1, 1], np.int64)}, "2 lengths of 1 clips"),
        ("motions", {"image": np.array([[b"x", b"y"]], object)}, "inputs['image'][0,"),
        ("numbers", {"features": np.full((1, 2, FEATURES), np.nan, np.float32)}, "NaN or infinity"),
        ("numbers", {"features": np.array([[b"x"]], object)}, "the model takes FP32"),
        ("numbers", LENGTHS, "'features' is missing"),
    ],
)
def test_what_is_no_clip_is_refused(infer: Infer, model: str, inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(model, **inputs)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()
