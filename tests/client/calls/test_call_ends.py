"""How calls end before their answer: deadlines, closed clients, callers who leave."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import resonnx
from resonnx_proto.v1 import vision_pb2

Call = Callable[..., Any]


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
