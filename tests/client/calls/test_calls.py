"""Single calls through both clients: answers, failures, deadlines and retries on a real channel."""

import asyncio
import threading
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


def test_a_shed_call_is_tried_again_when_invited(vision, call: Call, answer) -> None:
    def script(request, context):
        if len(vision.requests) < 3:
            vision.fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback="1")
        return answer

    vision.script["Classify"] = script
    assert call("classify", b"png", "digits").model == "digits"
    assert len(vision.requests) == 3


def test_a_shed_word_stream_is_tried_again_when_invited(vision, call: Call, sentence) -> None:
    def script(request, context):
        if len(vision.requests) < 2:
            vision.fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback="1")
        yield vision_pb2.StreamCaptionResponse(final=sentence)

    vision.script["StreamCaption"] = script
    assert len(call("stream_caption", b"png", "scenes")) == 1
    assert len(vision.requests) == 2


@pytest.mark.parametrize("pushback", [None, "-1", "60000"])
def test_a_shed_call_is_not_tried_again(vision, call: Call, pushback: str | None) -> None:
    vision.script["Classify"] = lambda request, context: vision.fail(
        context,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "full",
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="resonnx"),
        pushback=pushback,
    )
    with pytest.raises(resonnx.Overloaded) as caught:
        call("classify", b"png", "digits")
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s == (60.0 if pushback == "60000" else None)
    assert len(vision.requests) == 1


def test_a_server_that_always_sheds_costs_a_burst_of_retries(vision, call: Call) -> None:
    vision.script["Classify"] = lambda request, context: vision.fail(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback="0"
    )
    with pytest.raises(resonnx.Overloaded):
        call("classify", b"png", "digits")
    assert len(vision.requests) == 1 + 10


def test_unavailable_is_retried_by_the_channel_even_for_a_large_picture(vision, call: Call, answer) -> None:
    def script(request, context):
        if len(vision.requests) < 3:
            vision.fail(context, grpc.StatusCode.UNAVAILABLE, "draining")
        return answer

    vision.script["Classify"] = script
    photograph = bytes(8 * 2**20)
    assert call("classify", photograph, "digits").model == "digits"
    assert len(vision.requests) == 3
    assert all(len(request.image.encoded) == len(photograph) for request in vision.requests)


def test_a_lasting_unavailable_is_raised(vision, call: Call) -> None:
    vision.script["Classify"] = lambda request, context: vision.fail(
        context,
        grpc.StatusCode.UNAVAILABLE,
        "draining",
        error_details_pb2.ErrorInfo(reason="DRAINING", domain="resonnx"),
    )
    with pytest.raises(resonnx.Unavailable, match="draining") as caught:
        call("classify", b"png", "digits")
    assert caught.value.reason == "DRAINING"
    assert len(vision.requests) == 3


@pytest.mark.parametrize("method", ["classify", "stream_caption"])
def test_a_deadline_ends_the_wait(vision, call: Call, method: str) -> None:
    release = threading.Event()

    def script(request, context):
        release.wait(30)
        return ()

    vision.script["Classify"] = vision.script["StreamCaption"] = script
    try:
        with pytest.raises(resonnx.DeadlineExceeded):
            call(method, b"png", "any", timeout_s=0.1)
    finally:
        release.set()


def test_closing_the_client_ends_another_threads_call(vision) -> None:
    arrived, release = threading.Event(), threading.Event()

    def script(request, context):
        arrived.set()
        release.wait(30)

    vision.script["Classify"] = script
    caught: list[BaseException] = []
    client = resonnx.Client(vision.address, timeout_s=20)

    def ask() -> None:
        try:
            client.classify(b"png", "digits")
        except resonnx.ResonnxError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert arrived.wait(20)
    client.close()
    thread.join(20)
    release.set()
    assert [type(error) for error in caught] == [resonnx.Cancelled]


def test_leaving_a_word_stream_cancels_the_call(vision) -> None:
    ended = threading.Event()

    def script(request, context):
        context.add_callback(ended.set)
        yield vision_pb2.StreamCaptionResponse(word=vision_pb2.Word(text="a"))
        ended.wait(30)

    vision.script["StreamCaption"] = script
    with resonnx.Client(vision.address) as client:
        words = client.stream_caption(b"png", "scenes")
        assert next(words) == resonnx.Word("a", 0, 0.0)
        words.close()
        assert ended.wait(20)


def test_cancelling_a_task_cancels_its_call(vision) -> None:
    arrived, ended = threading.Event(), threading.Event()

    def script(request, context):
        context.add_callback(ended.set)
        arrived.set()
        ended.wait(30)

    vision.script["Classify"] = script

    async def ask() -> None:
        async with resonnx.AsyncClient(vision.address) as client:
            task = asyncio.create_task(client.classify(b"png", "digits"))
            assert await asyncio.to_thread(arrived.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(ask())


def test_a_picture_that_is_none_never_leaves(vision, call: Call) -> None:
    for method in ("classify", "caption", "stream_caption"):
        with pytest.raises(FileNotFoundError):
            call(method, "no such file.jpg", "any")
    assert vision.requests == []
