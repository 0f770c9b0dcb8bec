"""How calls end, with errors and without."""

import asyncio
import gc
import re
import threading
import time
import warnings
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.access.caller import unnamed
from resonnx_server.rpc.fronts.core.call import CoreCall, Shared
from resonnx_server.rpc.fronts.core.server import CoreFront

from ....conftest import examples
from ...waiting import until
from .service import FRONTS, KIB, SERVICE, ended, method, serving


async def test_failures_tell_nothing_of_the_inside(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, channel, _ = served
    internal = grpc.StatusCode.INTERNAL
    failures = [
        channel.unary_unary(method("fail"))(b""),
        channel.unary_unary(method("echo"))(b"unparsable"),
        channel.stream_stream(method("each"))(iter([b"unparsable"])).read(),
    ]
    for failure in failures:
        code, details, _ = await ended(failure)
        match = re.fullmatch(r"internal error \(incident ([0-9a-f]{8})\)", details)
        assert code is internal
        assert match is not None, details
        # With it, the log's line is found.
        assert match[1] in {getattr(record, "incident", "") for record in caplog.records}
    assert "a secret" in caplog.text


async def test_an_answer_is_sent_before_what_waits_for_the_loop_has_its_turn() -> None:
    told, found = threading.Event(), list[bool]()

    async def answer(request: bytes, context: Any) -> bytes:
        asyncio.get_running_loop().call_soon(lambda: found.append(told.wait(5)))
        return b"answer"

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            channel.unary_unary(method("answer"))(b"", timeout=20)
            told.set()

    server = CoreFront([])
    handler = grpc.unary_unary_rpc_method_handler(answer, bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"answer": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(ask, port)
    await server.stop(0)
    assert found == [True]


async def test_a_handler_that_cancels_itself_has_failed(served: Any) -> None:
    """Its caller is still there, and hears of it."""

    async def give_up(request: bytes, context: Any) -> bytes:
        raise asyncio.CancelledError

    _, channel, server = served
    handler = grpc.unary_unary_rpc_method_handler(give_up, bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"give_up": handler})
    call = channel.unary_unary(method("give_up"))(b"", timeout=10)
    assert (await ended(call))[:2] == (grpc.StatusCode.INTERNAL, "internal error")


async def test_a_caller_who_has_gone_before_its_request_is_handled_costs_nothing() -> None:
    handler = Mock()
    event = Mock(**{"call_details.deadline": 0.0, "call.peer.return_value": b""})
    call = CoreCall(event, handler, unnamed(""), Shared(Mock(), Mock(), Mock(), Mock()), "")
    call._cancel(None)
    call._run(b"late")
    await asyncio.sleep(0)
    assert not handler.mock_calls


async def test_a_call_that_is_ended_before_its_handlers_first_step_gets_its_status_once() -> None:
    handler = Mock()
    core = Mock(**{"start_server_batch.return_value": 0})
    event = Mock(call=core, **{"call_details.deadline": 0.0})
    shared = Shared(Mock(), Mock(), Mock(), Mock())
    call = CoreCall(event, handler, unnamed(""), shared, "")
    call._run(b"request")
    call.end(grpc.StatusCode.UNAVAILABLE, "enough")
    call.end(grpc.StatusCode.UNAVAILABLE, "enough")
    while shared.tasks:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert core.start_server_batch.call_count == 1
    assert call.code is grpc.StatusCode.UNAVAILABLE
    assert not handler.mock_calls


async def test_a_unary_call_without_a_message_is_refused(core: Any) -> None:
    """grpc.aio leaves it without an answer."""
    _, channel, _ = core
    call = channel.stream_unary(method("echo"))(iter(()))
    assert (await ended(call))[:2] == (grpc.StatusCode.UNIMPLEMENTED, "the call needs exactly one request message")


async def test_answered_is_what_has_been_sent_and_what_nobody_waits_for(served: Any) -> None:
    """Not what others asked later, nor what another service does."""
    handlers, channel, server = served

    bursts = []

    async def burst(request: bytes, context: Any) -> None:
        bursts.append(request)
        for _ in range(32):
            context.put(bytes(1000 * KIB))

    server.add_registered_method_handlers(SERVICE, {"burst": grpc.unary_stream_rpc_method_handler(burst, bytes, bytes)})
    idle = {"wait": grpc.unary_unary_rpc_method_handler(handlers.wait, bytes, bytes)}
    server.add_registered_method_handlers("test.Idle", idle)
    waiting = channel.unary_unary("/test.Idle/wait")(b"")
    await asyncio.wait_for(handlers.entered.wait(), 10)
    await asyncio.wait_for(server.answered([SERVICE]), 10)

    unread, left = (channel.unary_stream(method("burst"))(b"") for _ in range(2))
    await until(lambda: len(bursts) == 2)
    answered = asyncio.ensure_future(server.answered([SERVICE]))
    later = channel.unary_unary(method("wait"))(b"")
    left.cancel()
    assert await channel.unary_unary(method("echo"))(b"more") == b"more"
    assert not answered.done(), "its handler has returned, but nobody has read what it left"
    assert len([answer async for answer in unread]) == 32
    await asyncio.wait_for(answered, 10)

    server.end_calls(grpc.StatusCode.UNAVAILABLE, "enough")
    for call in (waiting, later):
        assert (await ended(call))[:2] == (grpc.StatusCode.UNAVAILABLE, "enough")
    assert handlers.seen == ["cancelled", "cancelled"]
    await asyncio.wait_for(server.answered([SERVICE, "test.Idle"]), 10)


async def test_a_method_that_is_no_coroutine_is_an_internal_error(served: Any) -> None:
    _, channel, server = served
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"now", bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"plain": handler})
    code, *_ = await ended(channel.unary_unary(method("plain"))(b""))
    assert code == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("front", FRONTS)
async def test_a_stream_that_ends_before_its_handler_begins_is_no_fault(front: str) -> None:
    """A client that opens and cancels at once, while the loop is busy, puts nothing into the log."""
    # On the loop: what it is told of calls meanwhile, it hears at once.
    hold_up = time.sleep

    async def nothing(requests: Any, context: Any) -> None:
        """Answer nothing."""

    server = FRONTS[front]([])
    handler = grpc.stream_stream_rpc_method_handler(nothing, bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"nothing": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with warnings.catch_warnings(record=True) as told, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        warnings.simplefilter("always")
        await asyncio.to_thread(grpc.channel_ready_future(channel).result, 30)
        for _ in range(20):
            calls = [channel.stream_stream(method("nothing"))(iter(())) for _ in range(5)]
            hold_up(0.02)
            for call in calls:
                call.cancel()
            hold_up(0.02)
            await asyncio.sleep(0.01)
        await server.stop(0)
        gc.collect()
    assert not [str(each.message) for each in told if "never awaited" in str(each.message)]


@pytest.mark.parametrize("front", FRONTS)
@examples(25)
@given(streams=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200 * KIB)), max_size=12))
def test_many_streams_of_any_size_at_once(front: str, streams: list[tuple[int, int]]) -> None:
    """Each stream gets back its own messages, in order, however they meet those of the others."""

    async def run() -> None:
        async with serving(front) as (_, channel, _), asyncio.timeout(60):

            async def one(seed: int, count: int, size: int) -> None:
                sent = [bytes([seed, number]) + bytes((size * number) % (200 * KIB)) for number in range(count)]
                call = channel.stream_stream(method("each"))(iter(sent))
                assert [answer async for answer in call] == [*sent, b"end"]

            await asyncio.gather(*(one(seed, *stream) for seed, stream in enumerate(streams)))

    asyncio.run(run())
