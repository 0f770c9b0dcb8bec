"""Calls that were shed or found no server: which are tried again, and how often."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
import resonnx
from google.rpc import error_details_pb2
from resonnx_proto.v1 import vision_pb2

Call = Callable[..., Any]


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
