"""Calls and streams of both fronts, by gRPC's own clients: with the same handlers, both do the same."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from resonnx_server.access.caller import unnamed
from resonnx_server.rpc.fronts.buffer import MAX_MESSAGES
from resonnx_server.rpc.fronts.call import StreamCall
from resonnx_server.rpc.fronts.intake import Intake

from ...waiting import until
from .service import FRONTS, KIB, SERVICE, Handlers, ended, method


async def test_unary_answers(served: Any) -> None:
    _, channel, _ = served
    echo = channel.unary_unary(method("echo"))
    sizes = [0, 1, 100, 100 * KIB, 3000 * KIB]
    answers = await asyncio.gather(*(echo(bytes([i]) * size) for i, size in enumerate(sizes * 20)))
    assert [len(answer) for answer in answers] == sizes * 20
    assert all(set(answer) <= {i} for i, answer in enumerate(answers))


async def test_a_refusal_has_code_details_and_trailers(served: Any) -> None:
    _, channel, _ = served
    code, details, trailers = await ended(channel.unary_unary(method("refuse"))(b""))
    assert (code, details) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert (trailers["why-bin"], trailers["where"]) == (b"\x00\xff", "here")


async def test_an_unknown_method_is_unimplemented(served: Any) -> None:
    _, channel, _ = served
    code, details, _ = await ended(channel.unary_unary("/test.Service/nothing")(b""))
    assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("front", FRONTS)
async def test_calls_of_unknown_methods_are_counted(front: str) -> None:
    unknown: list[None] = []
    server = FRONTS[front]([], lambda: unknown.append(None))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            await ended(channel.unary_unary("/test.Service/nothing")(b""))
        await until(lambda: len(unknown) == 2)
    await server.stop(0)


class _Unsent(StreamCall):
    """A stream whose first answer is being sent, and stays so."""

    async def __anext__(self) -> Any:
        raise StopAsyncIteration

    def peer(self) -> str:
        return ""

    def end(self, code: grpc.StatusCode, details: str) -> None:
        pass

    def _begin_to_send(self, message: bytes) -> None:
        pass


async def test_a_handler_goes_on_while_its_answers_fit_the_buffer() -> None:
    call = _Unsent(Mock(response_serializer=bytes), None, unnamed(""), (), Intake())
    assert [call.put(b"answer") for _ in range(MAX_MESSAGES)] == [None] * MAX_MESSAGES
    assert call.put(b"one more") is not None


async def test_deadlines_are_told_and_kept(served: Any) -> None:
    handlers, channel, _ = served
    remaining = channel.unary_unary(method("remaining"))
    assert await remaining(b"") == b"none"
    assert 50 < float(await remaining(b"", timeout=60)) < 61
    for timeout_s in (0.1, 1, 10):
        code, *_ = await ended(channel.unary_unary(method("wait"))(b"", timeout=timeout_s))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        # A call may be over before its handler begins.
        if handlers.entered.is_set():
            break
    await until(lambda: set(handlers.seen) == {"cancelled"})


@pytest.mark.parametrize("name", ["wait", "watch"])
async def test_a_handler_is_cancelled_when_its_caller_goes(served: Any, name: str) -> None:
    handlers, channel, _ = served
    is_unary = name == "wait"
    call = (channel.unary_unary if is_unary else channel.unary_stream)(method(name))(b"")
    if not is_unary:
        assert await call.read() == b"first"
    await asyncio.wait_for(handlers.entered.wait(), 10)
    call.cancel()
    await until(lambda: handlers.seen == ["cancelled"])
    assert await channel.unary_unary(method("echo"))(b"still there") == b"still there"


async def test_streams_both_ways(served: Any) -> None:
    _, channel, _ = served
    assert [int(answer) async for answer in channel.unary_stream(method("count"))(b"1000")] == list(range(1000))
    assert [answer async for answer in channel.unary_stream(method("count"))(b"0")] == []
    call = channel.stream_stream(method("each"))(str(number).encode() for number in range(1000))
    answers = [answer async for answer in call]
    assert answers == [*(str(number).encode() for number in range(1000)), b"end"]
    idle = channel.stream_stream(method("each"))()
    for number in range(3):
        await idle.write(str(number).encode())
        assert await idle.read() == str(number).encode(), "answered before the next is sent"
    await idle.done_writing()
    assert await idle.read() == b"end"
    assert await idle.code() == grpc.StatusCode.OK


async def test_written_answers_and_aborted_streams(served: Any) -> None:
    handlers, channel, _ = served
    watch = channel.unary_stream(method("watch"))(b"")
    assert await watch.read() == b"first"
    handlers.go_on.set()
    assert await watch.read() == b"last"
    assert await watch.read() == grpc.aio.EOF
    broken = channel.stream_stream(method("break_off"))()
    await broken.write(b"one")
    assert await broken.read() == b"one"
    code, details, _ = await ended(broken.read())
    assert (code, details) == (grpc.StatusCode.ABORTED, "enough")


async def test_who_does_not_read_holds_up_its_own_handler(served: Any) -> None:
    """Beyond gRPC's window (64 KiB and more) and what may wait here, the handler waits."""
    handlers, channel, _ = served
    call = channel.unary_stream(method("talk"))(b"")
    assert len(await call.read()) == 64 * KIB
    await _stands_still(channel, lambda: len(handlers.seen))
    assert len(handlers.seen) < 500, "4 MiB of the stream's window, 1 MiB here, and what the client holds"
    call.cancel()
    assert await channel.unary_unary(method("echo"))(b"still there") == b"still there"


async def test_who_is_not_read_waits(served: Any) -> None:
    handlers, channel, _ = served
    call = channel.stream_stream(method("deaf"))()
    await asyncio.wait_for(handlers.entered.wait(), 10)
    sent = 0

    async def write_all() -> None:
        nonlocal sent
        for number in range(500):
            await call.write(bytes([number % 256]) * 64 * KIB)
            sent += 1
        await call.done_writing()

    writing = asyncio.create_task(write_all())
    await _stands_still(channel, lambda: sent)
    assert sent < 500
    handlers.go_on.set()
    assert [answer[0] async for answer in call] == [number % 256 for number in range(500)]
    await writing


async def _stands_still(channel: grpc.aio.Channel, progress: Callable[[], int]) -> None:
    """Return when fifty other calls of the same connection have come and gone without any progress."""
    echo = channel.unary_unary(method("echo"))
    last, same = progress(), 0
    while same < 50:
        await echo(b"")
        same = same + 1 if progress() == last else 0
        last = progress()


async def test_stopping_lets_calls_end_and_takes_no_more(served: Any) -> None:
    handlers, channel, server = served
    wait = channel.unary_unary(method("wait"))(b"")
    watch = channel.unary_stream(method("watch"))(b"")
    assert await watch.read() == b"first"
    await asyncio.wait_for(handlers.entered.wait(), 10)
    stopping = asyncio.create_task(server.stop(30))

    async def is_refused() -> bool:
        try:
            await channel.unary_unary(method("echo"))(b"late", timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
        return False

    async with asyncio.timeout(10):
        while not await is_refused():
            await asyncio.sleep(0.01)
    handlers.go_on.set()
    assert await wait == b"waited"
    assert [await watch.read(), await watch.read()] == [b"last", grpc.aio.EOF]
    await asyncio.wait_for(stopping, 10)


async def test_stopping_cancels_what_does_not_end_in_time(served: Any) -> None:
    handlers, channel, server = served
    wait = channel.unary_unary(method("wait"))(b"")
    await asyncio.wait_for(handlers.entered.wait(), 10)
    await asyncio.wait_for(server.stop(0.1), 10)
    await ended(wait)
    assert handlers.seen == ["cancelled"]


async def test_a_call_has_its_caller_and_metadata(served: Any) -> None:
    _, channel, _ = served
    metadata = (("x-text", "a"), ("x-bytes-bin", b"\x00\xff"))
    expected = repr(("ip:127.0.0.1", [*metadata])).encode()
    assert await channel.unary_unary(method("who"))(b"", metadata=metadata) == expected
    # Before a message is received: this stream sends none.
    stream = channel.stream_stream(method("who_streams"))(iter(()), metadata=metadata)
    assert await stream.read() == expected


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(("address", "name"), [("[::1]:0", "ip:::/64"), ("unix:{}/socket", "unix")])
async def test_callers_over_other_kinds_of_address(front: str, address: str, name: str, tmp_path: Path) -> None:
    server = FRONTS[front]([])
    handler = grpc.unary_unary_rpc_method_handler(Handlers().who, bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"who": handler})
    address = address.format(tmp_path)
    port = server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address.replace(":0", f":{port}")) as channel:
        assert await channel.unary_unary(method("who"))(b"") == repr((name, [])).encode()
        await server.stop(0)
