"""Many pictures over one stream, through both clients."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import resonnx
from resonnx_proto.v1 import vision_pb2

Call = Callable[..., Any]


def reply(request: vision_pb2.ClassifyRequest) -> vision_pb2.ClassifyStreamResponse:
    """Answer with the picture's own bytes as its label."""
    return vision_pb2.ClassifyStreamResponse(
        id=request.id,
        response=vision_pb2.ClassifyResponse(
            model=request.model,
            predictions=[vision_pb2.Prediction(label=request.image.encoded.decode())],
        ),
    )


def backwards_by_four(requests, context):
    """Answer each four pictures in reverse."""
    requests = iter(requests)
    while batch := list(itertools.islice(requests, 4)):
        yield from map(reply, reversed(batch))


def labels(outcomes: list[tuple[int, Any]]) -> list[tuple[int, str]]:
    return [(index, outcome.predictions[0].label) for index, outcome in outcomes]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_every_picture_gets_its_own_answer(vision, call: Call, count: int) -> None:
    vision.script["ClassifyStream"] = backwards_by_four
    outcomes = call("classify_stream", [str(i).encode() for i in range(count)], "digits")
    assert sorted(labels(outcomes)) == [(i, str(i)) for i in range(count)]


def test_answers_come_in_the_order_of_completion(vision, call: Call) -> None:
    vision.script["ClassifyStream"] = backwards_by_four
    outcomes = call("classify_stream", [b"0", b"1", b"2", b"3"], "digits")
    assert labels(outcomes) == [(3, "3"), (2, "2"), (1, "1"), (0, "0")]


def test_an_async_source(vision) -> None:
    vision.script["ClassifyStream"] = backwards_by_four

    async def source():
        for i in range(40):
            yield str(i).encode()

    async def ask() -> list[tuple[int, Any]]:
        async with resonnx.AsyncClient(vision.address) as client:
            return [outcome async for outcome in client.classify_stream(source(), "digits")]

    assert sorted(labels(asyncio.run(ask()))) == [(i, str(i)) for i in range(40)]


def test_sixteen_pictures_are_taken_ahead_and_in_the_callers_thread(vision) -> None:
    taken: list[int] = []

    def source():
        for i in range(50):
            taken.append(threading.get_ident())
            yield str(i).encode()

    vision.script["ClassifyStream"] = lambda requests, context: map(reply, requests)
    with resonnx.Client(vision.address) as client:
        for answered, _ in enumerate(client.classify_stream(source(), "digits")):
            assert len(taken) - answered <= 16
    assert set(taken) == {threading.get_ident()}
    assert len(taken) == 50


def test_a_bad_picture_does_not_hurt_its_neighbours(vision, call: Call) -> None:
    def script(requests, context):
        for request in requests:
            if request.image.encoded == b"junk":
                error = vision_pb2.Error(code="INVALID_ARGUMENT", reason="BAD_IMAGE", message="image: not a picture")
                yield vision_pb2.ClassifyStreamResponse(id=request.id, error=error)
            else:
                yield reply(request)

    vision.script["ClassifyStream"] = script
    images = [b"0", b"junk", "no such file.jpg", np.zeros((2, 2, 2), np.uint8), b"4"]
    outcomes = dict(call("classify_stream", images, "digits"))
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    assert outcomes[0].predictions[0].label == "0"
    assert outcomes[4].predictions[0].label == "4"
    for index, reason in [(1, "BAD_IMAGE"), (2, "IMAGE_UNREADABLE"), (3, "IMAGE_UNREADABLE")]:
        assert isinstance(outcomes[index], resonnx.InvalidArgument)
        assert outcomes[index].reason == reason
    assert outcomes[2].message == "No such file or directory"


@pytest.mark.parametrize(("told", "seconds"), [(250, 0.25), (0, 0.0), (-1, None), (None, None)])
def test_a_refused_picture_says_when_to_come_back(vision, call: Call, told: int | None, seconds: float | None) -> None:
    error = vision_pb2.Error(code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL", message="full", retry_after_ms=told)
    vision.script["ClassifyStream"] = lambda requests, context: (
        vision_pb2.ClassifyStreamResponse(id=request.id, error=error) for request in requests
    )
    ((_, outcome),) = call("classify_stream", [b"0"], "digits")
    assert isinstance(outcome, resonnx.Overloaded)
    assert (outcome.reason, outcome.retry_after_s) == ("QUEUE_FULL", seconds)


def test_how_urgent_each_picture_is_reaches_the_server(vision, call: Call) -> None:
    def script(requests, context):
        for request in requests:
            vision.requests.append(request)
            yield reply(request)

    vision.script["ClassifyStream"] = script
    call("classify_stream", [b"0", b"1"], "digits", priority=8, answer_within_s=0.5)
    assert [(request.priority, request.timeout_us) for request in vision.requests] == [(8, 500_000)] * 2


def test_what_is_no_picture_at_all_is_the_callers_mistake(vision, call: Call) -> None:
    vision.script["ClassifyStream"] = backwards_by_four
    with pytest.raises(TypeError):
        call("classify_stream", [b"0", None], "digits")


def test_a_failing_source_raises_its_own_error(vision, call: Call) -> None:
    vision.script["ClassifyStream"] = backwards_by_four

    def source():
        yield b"0"
        raise LookupError("the camera fell down")

    with pytest.raises(LookupError, match="camera"):
        call("classify_stream", source(), "digits")


def test_a_broken_stream_raises(vision, call: Call) -> None:
    def script(requests, context):
        yield reply(next(requests))
        vision.fail(context, grpc.StatusCode.NOT_FOUND, "gone")

    vision.script["ClassifyStream"] = script
    with pytest.raises(resonnx.NotFound, match="gone"):
        call("classify_stream", [b"x"] * 40, "digits")


@pytest.mark.parametrize("count", [3, 40])
def test_a_server_that_forgets_pictures_is_found_out(vision, call: Call, count: int) -> None:
    vision.script["ClassifyStream"] = lambda requests, context: iter([reply(next(requests))])
    with pytest.raises(resonnx.Internal, match="unanswered"):
        call("classify_stream", [b"x"] * count, "digits")


def test_a_server_that_answers_twice_is_found_out(vision, call: Call) -> None:
    def script(requests, context):
        request = next(requests)
        yield reply(request)
        yield reply(request)

    vision.script["ClassifyStream"] = script
    with pytest.raises(resonnx.Internal, match="already answered"):
        call("classify_stream", [b"x", b"y"], "digits")


def test_a_deadline_for_the_whole_stream(vision, call: Call) -> None:
    release = threading.Event()

    def script(requests, context):
        release.wait(30)
        yield from ()

    vision.script["ClassifyStream"] = script
    try:
        with pytest.raises(resonnx.DeadlineExceeded):
            call("classify_stream", [b"x"] * 3, "digits", timeout_s=0.1)
    finally:
        release.set()


def test_leaving_early_ends_the_call_and_its_thread(vision) -> None:
    ended = threading.Event()

    def script(requests, context):
        context.add_callback(ended.set)
        yield from map(reply, requests)

    vision.script["ClassifyStream"] = script
    with resonnx.Client(vision.address) as client:
        outcomes = client.classify_stream(itertools.repeat(b"x"), "digits")
        next(outcomes)
        outcomes.close()
        assert ended.wait(20)


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(
    ("code", "servers"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, 1), (grpc.StatusCode.UNAVAILABLE, 1), (grpc.StatusCode.UNAVAILABLE, 2)],
)
def test_a_stream_without_an_answer_is_tried_again(vision, call: Call, code, servers: int, count: int) -> None:
    refused: list[int] = []

    def script(requests, context):
        if len(refused) < 2:
            refused.append(len(list(itertools.islice(requests, 3))))
            vision.fail(context, code, "busy", pushback="1" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None)
        yield from map(reply, requests)

    vision.script["ClassifyStream"] = script
    vision.address = ",".join([vision.address] * servers)
    outcomes = call("classify_stream", [str(i).encode() for i in range(count)], "digits")
    assert labels(outcomes) == [(i, str(i)) for i in range(count)]
    assert refused == [3, 3]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(("answers", "attempts"), [(0, 3), (1, 1)])
def test_a_stream_that_has_answered_is_not(vision, call: Call, answers: int, attempts: int, servers: int) -> None:
    begun = []

    def script(requests, context):
        begun.append(context)
        yield from map(reply, itertools.islice(requests, answers))
        vision.fail(context, grpc.StatusCode.UNAVAILABLE, "gone")

    vision.script["ClassifyStream"] = script
    vision.address = ",".join([vision.address] * servers)
    with pytest.raises(resonnx.Unavailable, match="gone"):
        call("classify_stream", [b"x"] * 40, "digits")
    assert len(begun) == attempts
