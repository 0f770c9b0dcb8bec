"""Single calls through both clients: answers and refusals on a real channel."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
import resonnx
from google.rpc import error_details_pb2
from resonnx_proto.v1 import manifest_pb2, vision_pb2

Call = Callable[..., Any]


def test_classify(vision, call: Call, answer) -> None:
    vision.script["Classify"] = lambda request, context: answer
    result = call("classify", b"png", "digits", version=3, top_k=2)
    assert result == resonnx.Classification(
        model="digits",
        version=3,
        predictions=(
            resonnx.Prediction("seven", 7, 0.75),
            resonnx.Prediction("one", 1, 0.25),
        ),
        features=None,
        timing=resonnx.Timing(0.0015, 0.00025, 0.002, 4),
    )
    (request,) = vision.requests
    assert (request.model, request.version, request.top_k) == ("digits", 3, 2)
    assert request.image.encoded == b"png"
    assert not request.return_features


def test_how_urgent_a_request_is_reaches_the_server(vision, call: Call, answer, sentence) -> None:
    vision.script["Classify"] = lambda request, context: answer
    vision.script["Caption"] = lambda request, context: sentence
    vision.script["StreamCaption"] = lambda request, context: iter([vision_pb2.StreamCaptionResponse(final=sentence)])
    for method in ("classify", "caption", "stream_caption"):
        call(method, b"png", "any", priority=2, answer_within_s=0.25)
        call(method, b"png", "any", answer_within_s=1e-9)
        call(method, b"png", "any")
        urgent, hurried, plain = vision.requests
        assert (urgent.priority, urgent.timeout_us) == (2, 250_000)
        assert (hurried.HasField("priority"), hurried.timeout_us) == (False, 1)
        assert not plain.HasField("priority")
        assert not plain.HasField("timeout_us")
        vision.requests.clear()
        for seconds in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="answer_within_s must be a number over 0"):
                call(method, b"png", "any", answer_within_s=seconds)
    assert not vision.requests


@pytest.mark.parametrize(
    ("method", "field", "value", "kind"),
    [
        ("classify", "top_k", -1, ValueError),
        ("classify", "priority", 2**40, ValueError),
        ("classify", "version", 2**70, ValueError),
        ("classify", "top_k", "5", TypeError),
        ("caption", "beam_width", -1, ValueError),
        ("caption", "seed", 2**64, ValueError),
        ("stream_caption", "max_tokens", 1.5, TypeError),
        ("model", "version", 2**70, ValueError),
    ],
)
def test_a_value_that_the_wire_cannot_hold_is_refused_by_name(
    vision, call: Call, method: str, field: str, value: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=f"^{field}: "):
        call(method, *([] if method == "model" else [b"png"]), "any", **{field: value})
    assert not vision.requests


@pytest.mark.parametrize("timeout_s", [1e9, 1e12, 1e300])
def test_a_timeout_beyond_grpcs_clock_is_none(vision, call: Call, answer, timeout_s: float) -> None:
    vision.script["Classify"] = lambda request, context: answer
    assert call("classify", b"png", "digits", timeout_s=timeout_s)


def test_features_come_when_asked_for(vision, call: Call, answer) -> None:
    answer.features.extend([0.5, -2.0])
    vision.script["Classify"] = lambda request, context: answer
    assert call("classify", b"png", "digits", features=True).features == (0.5, -2.0)
    assert vision.requests[0].return_features


def test_caption(vision, call: Call, sentence) -> None:
    vision.script["Caption"] = lambda request, context: sentence
    result = call("caption", b"png", "scenes", max_tokens=12)
    words = (resonnx.Word("a", 4, -0.25), resonnx.Word("circle", 9, -0.5))
    assert result.captions == (resonnx.Caption("a circle", -1.0, words, -0.5),)
    assert (vision.requests[0].max_tokens, vision.requests[0].version) == (12, 0)


def test_stream_caption_gives_words_then_the_whole(vision, call: Call, sentence) -> None:
    def script(request, context):
        for word in sentence.captions[0].words:
            yield vision_pb2.StreamCaptionResponse(word=word)
        yield vision_pb2.StreamCaptionResponse(final=sentence)

    vision.script["StreamCaption"] = script
    *words, last = call("stream_caption", b"png", "scenes")
    assert [word.text for word in words] == ["a", "circle"]
    assert last.captions[0].words == tuple(words)


def test_models(vision, call: Call) -> None:
    vision.script["ListModels"] = lambda request, context: vision_pb2.ListModelsResponse(
        models=[
            vision_pb2.ModelSummary(
                name="digits",
                version=3,
                task=manifest_pb2.TASK_CLASSIFIER,
                state=vision_pb2.MODEL_STATE_READY,
            ),
            vision_pb2.ModelSummary(
                name="odd",
                version=1,
                task=99,  # type: ignore[arg-type]
                state=vision_pb2.MODEL_STATE_REFUSED,
                reason="damaged",
            ),
        ]
    )
    assert call("models") == (
        resonnx.ModelSummary("digits", 3, "classifier", "ready", ""),
        resonnx.ModelSummary("odd", 1, "99", "refused", "damaged"),
    )


def test_model(vision, call: Call) -> None:
    manifest = manifest_pb2.Manifest(schema_version=1, task=manifest_pb2.TASK_CLASSIFIER)
    vision.script["GetModel"] = lambda request, context: vision_pb2.GetModelResponse(
        summary=vision_pb2.ModelSummary(name=request.model, version=request.version),
        manifest=manifest,
        sessions=[
            vision_pb2.SessionInfo(
                file="model.onnx",
                provider="CPUExecutionProvider",
                precision=manifest_pb2.PRECISION_FP32,
                latencies=[{"batch_size": 4, "expected_us": 2500, "spread_us": 100}],
                instances=2,
            )
        ],
        identity="ab12",
        verified=True,
        max_batch_size=16,
        max_queue_size=64,
        max_message_bytes=2**26,
        pictures={
            "exif_orientation": "EXIF_ORIENTATION_APPLY",
            "formats": ["JPEG", "GIF"],
            "max_image_pixels": 2**26,
            "max_image_side": 16_384,
        },
    )
    info = call("model", "digits", 3)
    assert (info.summary.name, info.summary.version) == ("digits", 3)
    assert info.manifest == manifest
    assert info.sessions == (
        resonnx.SessionInfo(
            "model.onnx",
            "CPUExecutionProvider",
            "fp32",
            (resonnx.BatchLatency(4, 0.0025, 0.0001),),
            2,
        ),
    )
    assert (info.identity, info.verified) == ("ab12", True)
    assert info.limits == resonnx.Limits(16, 64, 2**26)
    assert info.pictures == resonnx.PictureSettings("apply", False, ("JPEG", "GIF"), 2**26, 16_384)


def test_a_bare_file_has_no_manifest(vision, call: Call) -> None:
    vision.script["GetModel"] = lambda request, context: vision_pb2.GetModelResponse()
    assert call("model", "bare").manifest is None


def test_the_servers_refusal_keeps_its_details(vision, call: Call) -> None:
    vision.script["Classify"] = lambda request, context: vision.fail(
        context,
        grpc.StatusCode.INVALID_ARGUMENT,
        "image: an HTML page; taken are JPEG and PNG files",
        error_details_pb2.ErrorInfo(reason="BAD_IMAGE", domain="resonnx"),
        error_details_pb2.BadRequest(field_violations=[{"field": "image"}]),
    )
    with pytest.raises(resonnx.InvalidArgument, match="an HTML page") as caught:
        call("classify", b"junk", "digits")
    assert (caught.value.reason, caught.value.field) == ("BAD_IMAGE", "image")
    assert len(vision.requests) == 1


def test_a_picture_that_is_none_never_leaves(vision, call: Call) -> None:
    for method in ("classify", "caption", "stream_caption"):
        with pytest.raises(FileNotFoundError):
            call(method, "no such file.jpg", "any")
    assert vision.requests == []
