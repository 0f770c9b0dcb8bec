"""Many pictures by calls of their own: order, bound, errors of single pictures, connections."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import resonnx
from resonnx_proto.v1 import vision_pb2


@pytest.fixture
def echo(vision) -> dict[str, Any]:
    """Answers with what the picture holds, the earlier ones last; counts calls at a time and connections."""
    seen: dict[str, Any] = {"now": 0, "most": 0, "peers": set()}
    lock = threading.Lock()
    turn = threading.Condition(lock)

    def content(request: Any, context: Any) -> str:
        name: str = request.image.encoded.decode()
        with turn:
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
            seen["peers"].add(context.peer())
            turn.notify_all()
            # The first of each four waits for a later one, for a short time: there is none if calls follow each other.
            turn.wait_for(lambda: int(name) % 4 != 0 or seen["now"] > 1, 0.05)
            seen["now"] -= 1
        if name == "13":
            vision.fail(context, grpc.StatusCode.INVALID_ARGUMENT, "not a picture")
        return name

    def classify(request: Any, context: Any) -> vision_pb2.ClassifyResponse:
        label = content(request, context)
        return vision_pb2.ClassifyResponse(model=request.model, predictions=[{"label": label}])

    def caption(request: Any, context: Any) -> vision_pb2.CaptionResponse:
        return vision_pb2.CaptionResponse(model=request.model, captions=[{"text": content(request, context)}])

    vision.script["Classify"] = classify
    vision.script["Caption"] = caption
    return seen


def _text(outcome: Any) -> str:
    if isinstance(outcome, resonnx.Classification):
        return outcome.predictions[0].label
    return outcome.captions[0].text if isinstance(outcome, resonnx.CaptionResult) else type(outcome).__name__


@pytest.mark.parametrize("method", ["classify_many", "caption_many"])
@pytest.mark.parametrize(("concurrency", "connections"), [(1, 1), (5, 1), (20, 3)])
def test_results_are_in_order_and_calls_are_bounded(
    call, echo, method: str, concurrency: int, connections: int
) -> None:
    pictures: list[Any] = [str(number).encode() for number in range(40)]
    pictures[7] = "none.jpg"
    outcomes = call(method, pictures, "digits:canary", concurrency=concurrency)
    expected = [str(number) for number in range(40)]
    expected[7], expected[13] = "UnreadableImage", "InvalidArgument"
    assert [_text(outcome) for outcome in outcomes] == expected
    assert 1 <= echo["most"] <= concurrency
    assert len(echo["peers"]) == connections


@pytest.mark.usefixtures("echo")
def test_arguments_are_told_at_once_or_by_the_first_picture(call, vision) -> None:
    for concurrency in (0, 257):
        with pytest.raises(ValueError, match=f"concurrency must be 1 to 256, got {concurrency}"):
            call("classify_many", [b"1"], "digits", concurrency=concurrency)
    with pytest.raises(ValueError, match="top_k"):
        call("classify_many", [b"1", b"2"], "digits", top_k=-1)
    with pytest.raises(ValueError, match="give one of them"):
        call("caption_many", [b"1", b"2"], "scenes:1", version=2)
    assert vision.requests == []
    assert call("classify_many", [], "digits") == []


@pytest.mark.usefixtures("echo")
def test_pictures_are_taken_a_bounded_way_ahead(vision) -> None:
    taken = []

    def pictures() -> Any:
        for number in range(1000):
            taken.append(number)
            yield str(number + 100).encode()

    with resonnx.Client(vision.address) as client:
        outcomes = client.classify_many(pictures(), "digits", concurrency=2)
        next(outcomes)
        assert len(taken) <= 9
        outcomes.close()

    async def ask() -> None:
        async with resonnx.AsyncClient(vision.address) as client:
            outcomes = client.classify_many(pictures(), "digits", concurrency=2)
            await anext(outcomes)
            assert len(taken) <= 9
            await outcomes.aclose()
            assert len(asyncio.all_tasks()) == 1

    taken.clear()
    asyncio.run(ask())
    assert len(vision.requests) < 40


@pytest.mark.usefixtures("echo")
def test_an_asyncio_client_takes_an_asynchronous_iterator(vision) -> None:
    async def pictures() -> Any:
        for number in range(1, 4):
            yield str(number).encode()

    async def ask() -> list[str]:
        async with resonnx.AsyncClient(vision.address) as client:
            return [_text(outcome) async for outcome in client.classify_many(pictures(), "digits")]

    assert asyncio.run(ask()) == ["1", "2", "3"]


@pytest.mark.usefixtures("echo")
def test_a_closed_client_ends_the_iteration(vision, tmp_path: Path) -> None:
    client = resonnx.Client(vision.address)
    outcomes = client.classify_many([b"1"] * 50, "digits", concurrency=2)
    next(outcomes)
    client.close()
    with pytest.raises(resonnx.Cancelled):
        list(outcomes)
