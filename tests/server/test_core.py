"""The gRPC server of rpc/core, to gRPC's own clients: with the same handlers, it does what grpc.aio's server does."""

import asyncio
import contextlib
import gc
import logging
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resonnx_server.rpc.core.call import Call
from resonnx_server.rpc.core.server import CoreServer

SERVICE = "test.Service"
KIB = 1 << 10


def _parse(message: bytes) -> bytes:
    if message == b"unparsable":
        raise ValueError("not a message")
    return message


class Handlers:
    """What is served: methods by name, and what became of their calls."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        return b"waited"

    async def remaining(self, request: bytes, context: Any) -> bytes:
        remaining = context.time_remaining()
        return b"none" if remaining is None else f"{remaining:.3f}".encode()

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far", (("why-bin", b"\x00\xff"), ("where", "here")))
        raise AssertionError("abort returned")

    async def fail(self, request: bytes, context: Any) -> bytes:
        raise ValueError("a secret")

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    async def watch(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await self.wait(request, context)
        await context.write(b"last")

    async def each(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
        yield b"end"

    async def deaf(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.entered.set()
        await self.go_on.wait()
        async for request in requests:
            yield request

    async def talk(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(10_000):
            self.seen.append(number)
            yield bytes(64 * KIB)

    async def break_off(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            await context.abort(grpc.StatusCode.ABORTED, "enough")

    def all(self) -> dict[str, Any]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        both = grpc.stream_stream_rpc_method_handler
        kinds = {
            unary: (self.echo, self.wait, self.remaining, self.refuse, self.fail),
            stream: (self.count, self.watch, self.talk),
            both: (self.each, self.deaf, self.break_off),
        }
        return {method.__name__: kind(method, _parse, bytes) for kind, methods in kinds.items() for method in methods}


@asynccontextmanager
async def _serving(kind: str) -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    handlers = Handlers()
    server: Any = CoreServer([]) if kind == "core" else grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers.all()),))
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield handlers, channel, server
        await server.stop(0)


@pytest.fixture(params=["core", "aio"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    """Every test with this holds for grpc.aio's server as well."""
    async with _serving(request.param) as parts:
        yield parts


@pytest.fixture
async def core() -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    async with _serving("core") as parts:
        yield parts


def _method(name: str) -> str:
    return f"/{SERVICE}/{name}"


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def _ended(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call
    error = ended.value
    return error.code(), error.details() or "", dict(list(error.trailing_metadata() or ()))


async def test_unary_answers(served: Any) -> None:
    _, channel, _ = served
    echo = channel.unary_unary(_method("echo"))
    sizes = [0, 1, 100, 100 * KIB, 3000 * KIB]
    answers = await asyncio.gather(*(echo(bytes([i]) * size) for i, size in enumerate(sizes * 20)))
    assert [len(answer) for answer in answers] == sizes * 20
    assert all(set(answer) <= {i} for i, answer in enumerate(answers))


async def test_a_refusal_has_code_details_and_trailers(served: Any) -> None:
    _, channel, _ = served
    code, details, trailers = await _ended(channel.unary_unary(_method("refuse"))(b""))
    assert (code, details) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert (trailers["why-bin"], trailers["where"]) == (b"\x00\xff", "here")


async def test_an_unknown_method_is_unimplemented(served: Any) -> None:
    _, channel, _ = served
    code, details, _ = await _ended(channel.unary_unary("/test.Service/nothing")(b""))
    assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_deadlines_are_told_and_kept(served: Any) -> None:
    handlers, channel, _ = served
    remaining = channel.unary_unary(_method("remaining"))
    assert await remaining(b"") == b"none"
    assert 50 < float(await remaining(b"", timeout=60)) < 61
    code, *_ = await _ended(channel.unary_unary(_method("wait"))(b"", timeout=0.1))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    await _until(lambda: handlers.seen == ["cancelled"])


@pytest.mark.parametrize("method", ["wait", "watch"])
async def test_a_handler_is_cancelled_when_its_caller_goes(served: Any, method: str) -> None:
    handlers, channel, _ = served
    is_unary = method == "wait"
    call = (channel.unary_unary if is_unary else channel.unary_stream)(_method(method))(b"")
    if not is_unary:
        assert await call.read() == b"first"
    await asyncio.wait_for(handlers.entered.wait(), 10)
    call.cancel()
    await _until(lambda: handlers.seen == ["cancelled"])
    assert await channel.unary_unary(_method("echo"))(b"still there") == b"still there"


async def test_streams_both_ways(served: Any) -> None:
    _, channel, _ = served
    assert [int(answer) async for answer in channel.unary_stream(_method("count"))(b"1000")] == list(range(1000))
    assert [answer async for answer in channel.unary_stream(_method("count"))(b"0")] == []
    call = channel.stream_stream(_method("each"))(str(number).encode() for number in range(1000))
    answers = [answer async for answer in call]
    assert answers == [*(str(number).encode() for number in range(1000)), b"end"]
    idle = channel.stream_stream(_method("each"))()
    for number in range(3):
        await idle.write(str(number).encode())
        assert await idle.read() == str(number).encode(), "answered before the next is sent"
    await idle.done_writing()
    assert await idle.read() == b"end"
    assert await idle.code() == grpc.StatusCode.OK


async def test_written_answers_and_aborted_streams(served: Any) -> None:
    handlers, channel, _ = served
    watch = channel.unary_stream(_method("watch"))(b"")
    assert await watch.read() == b"first"
    handlers.go_on.set()
    assert await watch.read() == b"last"
    assert await watch.read() == grpc.aio.EOF
    broken = channel.stream_stream(_method("break_off"))()
    await broken.write(b"one")
    assert await broken.read() == b"one"
    code, details, _ = await _ended(broken.read())
    assert (code, details) == (grpc.StatusCode.ABORTED, "enough")


async def test_who_does_not_read_holds_up_its_own_handler(served: Any) -> None:
    """Beyond gRPC's window (64 KiB and more) and what may wait here, the handler waits."""
    handlers, channel, _ = served
    call = channel.unary_stream(_method("talk"))(b"")
    assert len(await call.read()) == 64 * KIB
    steady = 0
    written = 0
    while steady < 10:
        await asyncio.sleep(0.02)
        steady = steady + 1 if len(handlers.seen) == written else 0
        written = len(handlers.seen)
    assert written < 500, "4 MiB of the stream's window, 1 MiB here, and what the client holds"
    call.cancel()
    assert await channel.unary_unary(_method("echo"))(b"still there") == b"still there"


async def test_who_is_not_read_waits(served: Any) -> None:
    handlers, channel, _ = served
    call = channel.stream_stream(_method("deaf"))()
    await asyncio.wait_for(handlers.entered.wait(), 10)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 1000:
            # Shielded: a write that is given up would end the call.
            writing = asyncio.ensure_future(call.write(bytes([sent % 256]) * 64 * KIB))
            await asyncio.wait_for(asyncio.shield(writing), 0.5)
            sent += 1
    assert sent < 500
    handlers.go_on.set()
    await asyncio.wait_for(writing, 10)
    await call.done_writing()
    assert [answer[0] async for answer in call] == [number % 256 for number in range(sent + 1)]


async def test_stopping_lets_calls_end_and_takes_no_more(served: Any) -> None:
    handlers, channel, server = served
    wait = channel.unary_unary(_method("wait"))(b"")
    watch = channel.unary_stream(_method("watch"))(b"")
    assert await watch.read() == b"first"
    await asyncio.wait_for(handlers.entered.wait(), 10)
    stopping = asyncio.create_task(server.stop(30))

    async def is_refused() -> bool:
        try:
            await channel.unary_unary(_method("echo"))(b"late", timeout=5)
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
    wait = channel.unary_unary(_method("wait"))(b"")
    await asyncio.wait_for(handlers.entered.wait(), 10)
    await asyncio.wait_for(server.stop(0.1), 10)
    await _ended(wait)
    assert handlers.seen == ["cancelled"]


# What grpc.aio's server does otherwise, or does not do.


async def test_failures_tell_nothing_of_the_inside(core: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, channel, _ = core
    internal = grpc.StatusCode.INTERNAL
    assert (await _ended(channel.unary_unary(_method("fail"))(b"")))[:2] == (internal, "internal error")
    assert "a secret" in caplog.text
    unparsable = channel.unary_unary(_method("echo"))(b"unparsable")
    assert (await _ended(unparsable))[:2] == (internal, "the request message does not parse")
    stream = channel.stream_stream(_method("each"))(iter([b"unparsable"]))
    assert (await _ended(stream.read()))[:2] == (internal, "internal error")


async def test_a_unary_call_without_a_message_is_refused(core: Any) -> None:
    _, channel, _ = core
    call = channel.stream_unary(_method("echo"))(iter(()))
    assert (await _ended(call))[:2] == (grpc.StatusCode.UNIMPLEMENTED, "the call needs exactly one request message")


async def test_nothing_is_left_of_calls_and_server(core: Any) -> None:
    handlers, channel, server = core
    for _ in range(20):
        await channel.unary_unary(_method("echo"))(b"")
        call = channel.stream_stream(_method("each"))(iter([b"1", b"2"]))
        assert len([answer async for answer in call]) == 3
        gone = channel.unary_unary(_method("wait"))(b"")
        await asyncio.wait_for(handlers.entered.wait(), 10)
        handlers.entered.clear()
        gone.cancel()
    await _until(lambda: len(handlers.seen) == 20)
    await _until(lambda: not server._tasks)
    await server.stop(0)
    await server.stop(0)
    assert "grpc" not in {thread.name for thread in threading.enumerate()}


async def test_a_storm_of_calls_that_are_cancelled_leaves_nothing(core: Any) -> None:
    """At any moment: before the handler runs, while it waits, while answers wait to be sent."""
    _, channel, server = core
    picks = random.Random(1)

    async def leave(call: Any) -> None:
        await asyncio.sleep(picks.uniform(0, 0.02))
        call.cancel()

    async def one() -> None:
        kind = picks.randrange(3)
        if kind == 0:
            await leave(channel.unary_unary(_method("wait"))(bytes(picks.choice((0, 300 * KIB)))))
        elif kind == 1:
            await leave(channel.unary_stream(_method("talk"))(b""))
        else:
            await leave(channel.stream_stream(_method("each"))(bytes(4 * KIB) for _ in range(10_000)))

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(40)))
    assert await channel.unary_unary(_method("echo"))(b"still there") == b"still there"
    await _until(lambda: not server._tasks)


_STOPPED_IN_THE_MIDDLE = """
import asyncio, time
import grpc
from resonnx_server.rpc.core.server import CoreServer

class Slow(CoreServer):
    # Between the core's word that it has shut down and what comes after it.
    def _shut_down(self, event):
        super()._shut_down(event)
        time.sleep(0.003)

async def talk(requests, context):
    async for _ in requests:
        for _ in range(10):
            yield bytes(60_000)
        return

async def hold(request, context):
    await asyncio.sleep(100)

async def one():
    server = Slow([])
    server.add_registered_method_handlers("t.S", {
        "talk": grpc.stream_stream_rpc_method_handler(talk, bytes, bytes),
        "hold": grpc.unary_unary_rpc_method_handler(hold, bytes, bytes),
    })
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.unary_unary("/t.S/hold")(bytes(300_000)) for _ in range(20)]
        streams = [channel.stream_stream("/t.S/talk")(bytes(5000) for _ in range(1000)) for _ in range(20)]
        firsts = await asyncio.gather(*(stream.read() for stream in streams), return_exceptions=True)
        await server.stop(0)
        await asyncio.gather(*calls, return_exceptions=True)

for _ in range(5):
    asyncio.run(one())
print("stopped")
"""


def test_a_stop_survives_calls_that_end_after_it_began() -> None:
    """Handlers have returned, their answers wait to be sent: an operation on a closed queue would end the process."""
    done = subprocess.run([sys.executable, "-c", _STOPPED_IN_THE_MIDDLE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


@pytest.mark.parametrize("broken", ["echo", "each"])
async def test_a_call_that_failed_is_kept_for_no_garbage_collection(core: Any, broken: str) -> None:
    """Or whoever sends what does not parse fills the memory with it."""
    _, channel, server = core

    async def bad() -> None:
        if broken == "echo":
            await _ended(channel.unary_unary(_method("echo"))(b"unparsable"))
        else:
            await _ended(channel.stream_stream(_method("each"))(iter([b"unparsable"])).read())

    # What pytest captures of the log would keep the errors.
    logging.disable()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await bad()
        await _until(lambda: not server._tasks and server._under_way.count == 32)
        # Not isinstance: it asks objects that are none of ours what they are, and some warn.
        assert not [kept for kept in gc.get_objects() if issubclass(type(kept), Call)]
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


async def test_a_method_that_is_no_coroutine_is_an_internal_error(core: Any) -> None:
    _, channel, server = core
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"now", bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"plain": handler})
    code, *_ = await _ended(channel.unary_unary(_method("plain"))(b""))
    assert code == grpc.StatusCode.INTERNAL


async def test_a_stop_without_a_start_is_none() -> None:
    await CoreServer([]).stop(0)


async def test_a_port_in_use_is_told() -> None:
    options = [("grpc.so_reuseport", 0)]
    first = CoreServer(options)
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    with pytest.raises(OSError, match="cannot listen on"):
        CoreServer(options).add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200 * KIB)), max_size=12))
def test_many_streams_of_any_size_at_once(streams: list[tuple[int, int]]) -> None:
    """Each stream gets back its own messages, in order, however they meet those of the others."""

    async def run() -> None:
        async with _serving("core") as (_, channel, _), asyncio.timeout(60):

            async def one(seed: int, count: int, size: int) -> None:
                sent = [bytes([seed, number]) + bytes((size * number) % (200 * KIB)) for number in range(count)]
                call = channel.stream_stream(_method("each"))(iter(sent))
                assert [answer async for answer in call] == [*sent, b"end"]

            await asyncio.gather(*(one(seed, *stream) for seed, stream in enumerate(streams)))

    asyncio.run(run())
