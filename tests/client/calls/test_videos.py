"""Whole clips through both clients: answers and refusals on a real channel."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
import resonnx
from google.rpc import error_details_pb2
from resonnx_proto.v1 import vision_pb2 as pb

Call = Callable[..., Any]


@pytest.fixture
def moving() -> pb.ClassifyVideoResponse:
    """An answer, with scores that float32 holds exactly."""
    predictions = [pb.Prediction(label="left", index=2, score=0.75), pb.Prediction(label="up", index=0, score=0.25)]
    timing = pb.Timing(decode_us=1500, queue_us=250, compute_us=2000, batch_size=4)
    return pb.ClassifyVideoResponse(model="m", version=3, predictions=predictions, frames_read=[0, 2], timing=timing)


def test_classify_video(vision, call: Call, moving) -> None:
    vision.script["ClassifyVideo"] = lambda request, context: moving
    result = call("classify_video", b"GIF", "m:3", top_k=2, priority=2, answer_within_s=0.25)
    assert result == resonnx.VideoClassification(
        model="m",
        version=3,
        predictions=(resonnx.Prediction("left", 2, 0.75), resonnx.Prediction("up", 0, 0.25)),
        frames_read=(0, 2),
        timing=resonnx.Timing(0.0015, 0.00025, 0.002, 4),
    )
    call("classify_video", [b"a", b"b"], "m", times_s=[0, 1])
    file, frames = vision.requests
    assert file == pb.ClassifyVideoRequest(model="m", version=3, clip=b"GIF", top_k=2, priority=2, timeout_us=250_000)
    images = [pb.Image(encoded=b"a"), pb.Image(encoded=b"b")]
    assert frames == pb.ClassifyVideoRequest(model="m", frames=pb.VideoFrames(images=images, times_s=[0, 1]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"top_k": -1}, "^top_k: "),
        ({"version": "canary", "model": "m:3"}, "give one of them"),
        ({"answer_within_s": 0}, "answer_within_s must be"),
        ({"timeout_s": 0}, "timeout_s must be"),
        ({"times_s": [0]}, "has its own"),
    ],
)
def test_arguments_that_no_server_could_take_are_refused(vision, call: Call, arguments, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call("classify_video", b"GIF", **{"model": "m"} | arguments)
    assert not vision.requests


def test_a_clip_that_the_server_cannot_read(vision, call: Call) -> None:
    reason = error_details_pb2.ErrorInfo(reason="BAD_CLIP", domain="resonnx")
    vision.script["ClassifyVideo"] = lambda request, context: vision.fail(
        context, grpc.StatusCode.INVALID_ARGUMENT, "clip: no frames", reason
    )
    with pytest.raises(resonnx.BadClip, match="no frames"):
        call("classify_video", b"GIF", "m")


def test_a_refused_clip_is_tried_again(vision, call: Call, moving) -> None:
    def script(request, context):
        if len(vision.requests) < 3:
            vision.fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", pushback="1")
        return moving

    vision.script["ClassifyVideo"] = script
    assert call("classify_video", b"GIF", "m").predictions[0].label == "left"
    assert [request.clip for request in vision.requests] == [b"GIF"] * 3
