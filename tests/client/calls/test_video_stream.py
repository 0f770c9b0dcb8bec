"""Frames over one stream, through both clients."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import resonnx
from resonnx_proto.v1 import vision_pb2 as pb

Call = Callable[..., Any]


def answers(requests: Any) -> Any:
    """Answer each frame with the bytes so far, and the stream."""
    seen = ""
    for number, request in enumerate(requests):
        seen += request.image.encoded.decode()
        yield pb.ClassifyVideoStreamResponse(predictions=[{"label": seen}], frames_read=number + 1, frame=number)
    yield pb.ClassifyVideoStreamResponse(predictions=[{"label": seen}], is_final=True)


def labels(updates: list[resonnx.VideoUpdate]) -> list[str]:
    return [update.predictions[0].label for update in updates]


def test_each_frame_is_answered_and_the_first_one_names_the_model(vision, call: Call) -> None:
    def script(requests, context):
        vision.requests = list(requests)
        yield from answers(vision.requests)

    vision.script["ClassifyVideoStream"] = script
    found = call("classify_video_stream", [b"a", (b"b", 0.5)], "m:3", top_k=2, answer_every=1, priority=2)
    assert labels(found) == ["a", "ab", "ab"]
    assert [update.is_final for update in found] == [False, False, True]
    assert [update.frames_read for update in found[:2]] == [1, 2]
    first, second = vision.requests
    frame = pb.Image(encoded=b"a")
    assert first == pb.ClassifyVideoStreamRequest(
        model="m", version=3, top_k=2, answer_every=1, priority=2, image=frame
    )
    assert second == pb.ClassifyVideoStreamRequest(image=pb.Image(encoded=b"b"), time_s=0.5)


def test_an_answer_comes_before_the_next_frame(vision) -> None:
    answered = threading.Event()

    def frames():
        yield b"a"
        assert answered.wait(20)
        yield b"b"

    vision.script["ClassifyVideoStream"] = lambda requests, context: answers(requests)
    with resonnx.Client(vision.address) as client:
        updates = client.classify_video_stream(frames(), "m")
        assert next(updates).predictions[0].label == "a"
        answered.set()
        assert labels(list(updates)) == ["ab", "ab"]


def test_a_failing_source_raises_its_own_error(vision, call: Call) -> None:
    vision.script["ClassifyVideoStream"] = lambda requests, context: answers(requests)

    def source():
        yield b"a"
        raise LookupError("the camera fell down")

    with pytest.raises(LookupError, match="camera"):
        call("classify_video_stream", source(), "m")
    with pytest.raises(FileNotFoundError):
        call("classify_video_stream", [b"a", "none.png"], "m")
    with pytest.raises(TypeError, match=r"^frame 1: "):
        call("classify_video_stream", [b"a", None], "m")
    with pytest.raises(ValueError, match="at least one frame"):
        call("classify_video_stream", [], "m")


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_stream_without_an_answer_is_tried_again_with_all_its_frames(vision, call: Call, code) -> None:
    refused: list[int] = []

    def script(requests, context):
        if len(refused) < 2:
            refused.append(len(list(itertools.islice(requests, 2))))
            vision.fail(context, code, "busy", pushback="1" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None)
        yield from answers(requests)

    vision.script["ClassifyVideoStream"] = script
    assert labels(call("classify_video_stream", [b"a", b"b", b"c"], "m")) == ["a", "ab", "abc", "abc"]
    assert refused == [2, 2]


def test_a_stream_that_has_answered_is_not(vision, call: Call) -> None:
    begun = []

    def script(requests, context):
        begun.append(context)
        yield from itertools.islice(answers(requests), 1)
        vision.fail(context, grpc.StatusCode.UNAVAILABLE, "gone")

    vision.script["ClassifyVideoStream"] = script
    with pytest.raises(resonnx.Unavailable, match="gone"):
        call("classify_video_stream", [b"a"] * 40, "m")
    assert len(begun) == 1


def test_a_stream_without_its_last_answer_is_found_out(vision, call: Call) -> None:
    vision.script["ClassifyVideoStream"] = lambda requests, context: itertools.islice(answers(requests), 1)
    with pytest.raises(resonnx.Internal, match="last answer"):
        call("classify_video_stream", [b"a"], "m")
