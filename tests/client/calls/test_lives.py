"""A client's life: made early, used in several loops, waiting without limit, closed."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import resonnx
from resonnx_proto.v1 import vision_pb2

Call = Callable[..., Any]

METHODS: list[tuple[str, tuple[Any, ...]]] = [
    ("classify", (b"png", "digits")),
    ("classify_stream", ([b"png"], "digits")),
    ("caption", (b"png", "scenes")),
    ("stream_caption", (b"png", "scenes")),
    ("models", ()),
    ("model", ("digits",)),
]


@pytest.mark.parametrize(("method", "arguments"), METHODS)
def test_a_closed_client_says_so(vision, method: str, arguments: tuple[Any, ...]) -> None:
    client = resonnx.Client(vision.address)
    client.close()
    client.close()
    with pytest.raises(resonnx.ClientClosed, match="the client is closed") as caught:
        list(getattr(client, method)(*arguments))
    assert isinstance(caught.value, resonnx.ResonnxError)
    assert (caught.value.code, caught.value.reason) == ("CANCELLED", "CLIENT_CLOSED")
    assert vision.requests == []


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(("method", "arguments"), METHODS)
def test_a_closed_async_client_says_so(vision, answer, used: bool, method: str, arguments: tuple[Any, ...]) -> None:
    vision.script["Classify"] = lambda request, context: answer

    async def ask() -> None:
        client = resonnx.AsyncClient(vision.address)
        if used:
            await client.classify(b"png", "digits")
        await client.close()
        await client.close()
        with pytest.raises(resonnx.ClientClosed, match="the client is closed"):
            await _whole(getattr(client, method)(*arguments))

    asyncio.run(ask())
    assert len(vision.requests) == used


@pytest.fixture
def held(vision) -> Iterator[threading.Event]:
    """Calls that wait for the test's end; the event is set when one has arrived."""
    arrived, release = threading.Event(), threading.Event()

    def hold(request, context):
        arrived.set()
        release.wait(30)
        return iter(())

    vision.script.update(dict.fromkeys(("Classify", "Caption", "StreamCaption", "ListModels", "GetModel"), hold))
    vision.script["ClassifyStream"] = hold
    yield arrived
    release.set()


@pytest.mark.parametrize(("method", "arguments"), METHODS)
def test_closing_ends_calls_under_way_in_both_clients(
    vision, held: threading.Event, method: str, arguments: tuple[Any, ...]
) -> None:
    client = resonnx.Client(vision.address)
    closing = threading.Thread(target=lambda: held.wait(20) and client.close())
    closing.start()
    with pytest.raises(resonnx.Cancelled) as sync_caught:
        list(getattr(client, method)(*arguments))
    closing.join(20)
    held.clear()

    async def ask() -> None:
        client = resonnx.AsyncClient(vision.address)

        async def close() -> None:
            assert await asyncio.to_thread(held.wait, 20)
            await client.close()

        closing = asyncio.create_task(close())
        with pytest.raises(resonnx.Cancelled) as caught:
            await _whole(getattr(client, method)(*arguments))
        assert type(caught.value) is type(sync_caught.value) is resonnx.Cancelled
        await closing

    asyncio.run(ask())


def test_a_task_that_is_cancelled_while_the_client_closes_stays_cancelled(vision, held: threading.Event) -> None:
    async def ask() -> None:
        client = resonnx.AsyncClient(vision.address)
        task = asyncio.create_task(client.classify(b"png", "digits"))
        assert await asyncio.to_thread(held.wait, 20)
        task.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())


def test_an_async_client_may_be_made_before_any_loop_and_used_in_one_after_the_other(vision, answer) -> None:
    vision.script["Classify"] = lambda request, context: answer
    client = resonnx.AsyncClient(vision.address)
    for _ in range(3):
        assert asyncio.run(client.classify(b"png", "digits")).model == "digits"
    asyncio.run(client.close())
    assert len(vision.requests) == 3


def test_an_async_client_that_was_never_used_can_be_closed() -> None:
    async def leave() -> None:
        async with resonnx.AsyncClient("localhost:1"):
            pass

    asyncio.run(leave())


def test_two_loops_at_once_are_told(vision, answer) -> None:
    vision.script["Classify"] = lambda request, context: answer
    client = resonnx.AsyncClient(vision.address)

    async def ask() -> None:
        await client.classify(b"png", "digits")
        with pytest.raises(RuntimeError, match="used by another event loop"):
            await asyncio.to_thread(asyncio.run, client.classify(b"png", "digits"))
        await client.close()

    asyncio.run(ask())


@pytest.mark.parametrize("twin", ["sync", "async"])
@pytest.mark.parametrize("method", ["classify", "caption", "stream_caption", "models", "model"])
def test_no_timeout_is_no_limit(vision, answer, sentence, twin: str, method: str) -> None:
    """The client's own if nothing is said; None, for the client or the call, is no limit."""
    left: list[float | None] = []

    def script(response: Any) -> Any:
        def respond(request, context):
            left.append(context.time_remaining())
            return response() if callable(response) else response

        return respond

    vision.script["Classify"] = script(answer)
    vision.script["Caption"] = script(sentence)
    vision.script["StreamCaption"] = script(lambda: iter([vision_pb2.StreamCaptionResponse(final=sentence)]))
    vision.script["ListModels"] = script(vision_pb2.ListModelsResponse())
    vision.script["GetModel"] = script(vision_pb2.GetModelResponse())
    arguments = dict(METHODS)[method]

    async def ask(client_s: float | None, **options: Any) -> None:
        async with resonnx.AsyncClient(vision.address, timeout_s=client_s) as client:
            await _whole(getattr(client, method)(*arguments, **options))

    for client_s, options in [(30.0, {}), (None, {}), (30.0, {"timeout_s": None}), (None, {"timeout_s": 60.0})]:
        if twin == "async":
            asyncio.run(ask(client_s, **options))
        else:
            with resonnx.Client(vision.address, timeout_s=client_s) as client:
                answered = getattr(client, method)(*arguments, **options)
                assert list(answered) if method == "stream_caption" else answered is not None
    first, second, third, fourth = left
    assert first is not None
    assert 20 < first < 40
    # What gRPC says of a call without a deadline.
    assert second is None or second > 1e6
    assert third is None or third > 1e6
    assert fourth is not None
    assert 45 < fourth < 80


def test_a_shed_call_without_limit_is_tried_again_when_invited(vision, answer) -> None:
    import grpc

    def script(request, context):
        if len(vision.requests) < 2:
            vision.fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback="1")
        return answer

    vision.script["Classify"] = script
    with resonnx.Client(vision.address, timeout_s=None) as client:
        assert client.classify(b"png", "digits").model == "digits"


async def _whole(answer: Any) -> Any:
    """Await an answer, or take a stream's answers to their end."""
    if hasattr(answer, "__aiter__"):
        return [item async for item in answer]
    return await answer
