"""The task API of a real server: right answers, and clear refusals that name the field, the value and the limit."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from PIL import Image
from resonnx_proto.v1 import manifest_pb2, vision_pb2, vision_pb2_grpc

Truth = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def channel(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def vision(channel: grpc.Channel) -> vision_pb2_grpc.VisionStub:
    return vision_pb2_grpc.VisionStub(channel)


def _pick(truth: Truth, model: str) -> list[str]:
    return [name for name, entry in truth.items() if entry["model"] == model]


def _image(path: Path) -> vision_pb2.Image:
    return vision_pb2.Image(encoded=path.read_bytes())


def _classify(vision, image: vision_pb2.Image, **fields: object) -> vision_pb2.ClassifyResponse:
    return vision.Classify(vision_pb2.ClassifyRequest(model="digits", image=image, **fields), timeout=20)


def test_classify(vision, samples: Path, truth: Truth) -> None:
    right = 0
    for name in _pick(truth, "digits"):
        response = _classify(vision, _image(samples / name), id=name, top_k=10)
        assert (response.model, response.version, response.id) == ("digits", 1, name)
        scores = [prediction.score for prediction in response.predictions]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-4)
        assert {prediction.index for prediction in response.predictions} == set(range(10))
        assert response.timing.batch_size >= 1
        assert response.timing.compute_us > 0
        right += response.predictions[0].label == truth[name]["label"]
    assert right >= len(_pick(truth, "digits")) - 1


def test_top_k_and_features(vision, samples: Path, truth: Truth) -> None:
    image = _image(samples / _pick(truth, "digits")[0])
    assert len(_classify(vision, image).predictions) == 5
    assert len(_classify(vision, image, top_k=1).predictions) == 1
    assert not _classify(vision, image).features
    manifest = vision.GetModel(vision_pb2.GetModelRequest(model="digits")).manifest
    assert len(_classify(vision, image, return_features=True).features) == manifest.classifier.feature_size


def test_raw_pixels_equal_the_file(vision, samples: Path, truth: Truth) -> None:
    path = samples / _pick(truth, "digits")[0]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    raw = vision_pb2.Image(raw={"rgb": pixels.tobytes(), "width": pixels.shape[1], "height": pixels.shape[0]})
    by_file, by_pixels = _classify(vision, _image(path)), _classify(vision, raw)
    assert [p.index for p in by_file.predictions] == [p.index for p in by_pixels.predictions]
    assert by_file.predictions[0].score == pytest.approx(by_pixels.predictions[0].score, abs=1e-4)


def test_classify_stream(vision, samples: Path, truth: Truth) -> None:
    names = _pick(truth, "digits")
    requests = [vision_pb2.ClassifyRequest(model="digits", image=_image(samples / n), id=n, top_k=1) for n in names]
    requests.insert(3, vision_pb2.ClassifyRequest(model="digits", image={"encoded": b"x"}, id="broken"))
    requests.insert(5, vision_pb2.ClassifyRequest(model="nobody", image={"encoded": b"x"}, id="unknown"))
    answers = {answer.id: answer for answer in vision.ClassifyStream(iter(requests), timeout=30)}
    assert set(answers) == {*names, "broken", "unknown"}
    assert (answers["broken"].error.code, answers["broken"].error.reason) == ("INVALID_ARGUMENT", "BAD_IMAGE")
    assert (answers["unknown"].error.code, answers["unknown"].error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    for name in names:
        single = _classify(vision, _image(samples / name), top_k=1)
        assert answers[name].response.predictions[0].label == single.predictions[0].label


def test_caption_and_stream_caption(vision, samples: Path, truth: Truth) -> None:
    right = 0
    for name in _pick(truth, "scenes"):
        request = vision_pb2.CaptionRequest(model="scenes", image=_image(samples / name), id=name)
        response = vision.Caption(request, timeout=20)
        caption = response.captions[0]
        assert caption.text == " ".join(word.text for word in caption.words)
        assert sum(word.log_prob for word in caption.words) >= caption.log_prob
        right += caption.text == truth[name]["caption"]
        events = list(vision.StreamCaption(request, timeout=20))
        assert [event.word.text for event in events[:-1]] == caption.text.split()
        assert events[-1].final.captions[0].text == caption.text
    assert right >= len(_pick(truth, "scenes")) - 2


def test_max_tokens(vision, samples: Path, truth: Truth) -> None:
    image = _image(samples / _pick(truth, "scenes")[0])
    short = vision.Caption(vision_pb2.CaptionRequest(model="scenes", image=image, max_tokens=2), timeout=20)
    assert len(short.captions[0].words) == 2


def test_list_and_get(vision, demo_server) -> None:
    models = vision.ListModels(vision_pb2.ListModelsRequest()).models
    assert [(m.name, m.version, m.task, m.state) for m in models] == [
        ("digits", 1, manifest_pb2.TASK_CLASSIFIER, vision_pb2.MODEL_STATE_READY),
        ("scenes", 1, manifest_pb2.TASK_CAPTIONER, vision_pb2.MODEL_STATE_READY),
    ]
    digits = vision.GetModel(vision_pb2.GetModelRequest(model="digits"))
    assert digits.verified
    assert len(digits.identity) == 64
    assert digits.max_message_bytes == 64 << 20
    assert list(digits.manifest.classifier.labels)[:3] == ["zero", "one", "two"]
    assert digits.manifest.parity.checks
    assert digits.manifest.parity.damaged_copy_rejected
    height, width = digits.manifest.input.height, digits.manifest.input.width
    inputs = [(each.name, each.datatype, list(each.shape), each.optional) for each in digits.inputs]
    assert inputs == [
        ("image", "UINT8", [-1, height, width, 3], True),
        ("encoded_image", "BYTES", [-1, 1], True),
    ]
    outputs = [(each.name, each.datatype, list(each.shape), each.optional) for each in digits.outputs]
    assert outputs[:2] == [(name, "FP32", [-1, 10], False) for name in ("probabilities", "logits")]
    sizes = [latency.batch_size for latency in digits.sessions[0].latencies]
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16]
    scenes = vision.GetModel(vision_pb2.GetModelRequest(model="scenes", version=1))
    assert [session.file for session in scenes.sessions] == ["encoder.onnx", "decoder.onnx"]
    assert [each.name for each in scenes.outputs] == ["caption", "log_prob"]


def test_what_a_model_was_compared_with_is_logged_and_measured(vision, demo_server) -> None:
    manifest = vision.GetModel(vision_pb2.GetModelRequest(model="digits")).manifest
    assert manifest.verified_against == manifest_pb2.REFERENCE_OUR_READING
    assumed = [f"{each.name}: {each.value}" for each in manifest.assumptions if not each.confirmed]
    labels = {"model": "digits", "version": "1"}
    assert demo_server.metric("resonnx_model_info", verified_against="our_reading", **labels) == 1
    assert demo_server.metric("resonnx_model_info", **labels) == 1, "one series a model"
    lines = [json.loads(line) for line in demo_server.log.read_text().splitlines()]
    (line,) = (line for line in lines if line["message"] == "serving" and line["model"] == "digits")
    assert (line["verified_against"], line["assumptions"]) == ("our_reading", assumed)


def test_large_message_is_taken(vision) -> None:
    """A 4000x4000 picture in raw pixels is 48 MB: over gRPC's own 4 MiB, under our 64 MiB."""
    side = 4000
    raw = vision_pb2.Image(raw={"rgb": bytes(side * side * 3), "width": side, "height": side})
    assert _classify(vision, raw).predictions


def _refused(call, code: grpc.StatusCode, reason: str, field: str | None, *parts: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    assert refused.value.code() == code
    message = refused.value.details()
    for part in parts:
        assert part in message, message
    assert "Traceback" not in message
    status = rpc_status.from_call(refused.value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "resonnx")
    if field is not None:
        bad = error_details_pb2.BadRequest()
        assert status.details[1].Unpack(bad)
        assert bad.field_violations[0].field == field


def test_bad_requests(vision, samples: Path, truth: Truth) -> None:
    good = _image(samples / _pick(truth, "digits")[0])
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND

    def classify(**fields: object):
        request = vision_pb2.ClassifyRequest(**{"model": "digits", "image": good, **fields})
        return lambda: vision.Classify(request, timeout=10)

    def caption(**fields: object):
        request = vision_pb2.CaptionRequest(**{"model": "scenes", "image": good, **fields})
        return lambda: vision.Caption(request, timeout=10)

    _refused(classify(model="nobody"), missing, "MODEL_NOT_FOUND", None, "'nobody'", "which has digits, scenes")
    _refused(classify(version=9), missing, "MODEL_NOT_FOUND", None, "no version 9", "version 1 is served")
    _refused(classify(version=-1), missing, "MODEL_NOT_FOUND", None)
    _refused(classify(model="scenes"), invalid, "INVALID_INPUT", "model", "'scenes' is a captioner, not a classifier")
    _refused(caption(model="digits"), invalid, "INVALID_INPUT", "model", "'digits' is a classifier, not a captioner")
    _refused(classify(top_k=11), invalid, "INVALID_INPUT", "top_k", "11", "0..10")
    for call in (classify, caption):
        _refused(call(priority=9), invalid, "INVALID_INPUT", "priority", "9", "0..8")
    _refused(caption(max_tokens=4_000_000_000), invalid, "INVALID_INPUT", "max_tokens", "4000000000")
    _refused(classify(image=vision_pb2.Image()), invalid, "BAD_IMAGE", "image", "neither encoded nor raw")
    _refused(classify(image={"encoded": b"junk"}), invalid, "BAD_IMAGE", "image.encoded", "plain text")
    truncated = {"encoded": good.encoded[: len(good.encoded) // 2]}
    _refused(classify(image=truncated), invalid, "BAD_IMAGE", "image.encoded", "damaged or incomplete")
    large = io.BytesIO()
    Image.new("1", (16_385, 1)).save(large, "PNG")
    _refused(classify(image={"encoded": large.getvalue()}), invalid, "BAD_IMAGE", "image.encoded", "16385x1", "16384")
    many = io.BytesIO()
    Image.new("1", (8200, 8200)).save(many, "PNG")
    _refused(
        classify(image={"encoded": many.getvalue()}), invalid, "BAD_IMAGE", "image.encoded", "67240000", "67108864"
    )
    raw = {"raw": {"rgb": b"123", "width": 2, "height": 2}}
    _refused(classify(image=raw), invalid, "BAD_IMAGE", "image.raw.rgb", "3 bytes", "need 12")
    with pytest.raises(grpc.RpcError) as refused:
        list(vision.StreamCaption(vision_pb2.CaptionRequest(model="scenes", image={"encoded": b"junk"}), timeout=10))
    assert refused.value.code() == invalid


def test_health(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    services = ("", "resonnx.v1.Vision", "inference.GRPCInferenceService", "resonnx.v1.Vision/digits")
    for service in services:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="resonnx.v1.Vision/scenes"), timeout=10)
    assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_shows_each_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    calls = {
        "resonnx.v1.Vision": "Classify",
        "resonnx.v1.Repository": "Status",
        "inference.GRPCInferenceService": "ModelInfer",
        "grpc.health.v1.Health": "Watch",
        "grpc.reflection.v1.ServerReflection": "ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection": "ServerReflectionInfo",
    }
    assert set(database.get_services()) == set(calls)
    for service, call in calls.items():
        file = database.FindFileContainingSymbol(service)
        described = next(s for s in file.service if f"{file.package}.{s.name}" == service)
        assert call in {method.name for method in described.method}
