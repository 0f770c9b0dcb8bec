"""How calls and fronts end, with errors and without, and what is left of them."""

import asyncio
import contextlib
import gc
import logging
import random
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.access.caller import Caller, unnamed
from resonnx_server.rpc.fronts.call import Call, Rejected
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.call import CoreCall, Shared
from resonnx_server.rpc.fronts.core.server import _ACCEPTED_AHEAD, CoreFront

from ....conftest import examples
from ...waiting import until
from .service import FRONTS, KIB, SERVICE, Handlers, ended, method, serving


@pytest.fixture
async def core() -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    async with serving("core") as parts:
        yield parts


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
    call = CoreCall(event, handler, unnamed(""), Shared(Mock(), Mock(), Mock(), Mock()))
    call._cancel(None)
    call._run(b"late")
    await asyncio.sleep(0)
    assert not handler.mock_calls


async def test_a_unary_call_without_a_message_is_refused(core: Any) -> None:
    """grpc.aio leaves it without an answer."""
    _, channel, _ = core
    call = channel.stream_unary(method("echo"))(iter(()))
    assert (await ended(call))[:2] == (grpc.StatusCode.UNIMPLEMENTED, "the call needs exactly one request message")


async def test_nothing_is_left_of_calls_and_server(served: Any) -> None:
    handlers, channel, server = served
    for _ in range(20):
        await channel.unary_unary(method("echo"))(b"")
        call = channel.stream_stream(method("each"))(iter([b"1", b"2"]))
        assert len([answer async for answer in call]) == 3
        gone = channel.unary_unary(method("wait"))(b"")
        await asyncio.wait_for(handlers.entered.wait(), 10)
        handlers.entered.clear()
        gone.cancel()
    await until(lambda: len(handlers.seen) == 20)
    await until(lambda: not server._active._calls)
    await server.stop(0)
    await server.stop(0)
    assert not (isinstance(server, CoreFront) and server._thread.is_alive())


async def test_a_storm_of_calls_that_are_cancelled_leaves_nothing(served: Any) -> None:
    """At any moment: before the handler runs, while it waits, while answers wait to be sent."""
    _, channel, server = served
    picks = random.Random(1)

    async def leave(call: Any) -> None:
        await asyncio.sleep(picks.uniform(0, 0.02))
        call.cancel()

    async def one() -> None:
        kind = picks.randrange(3)
        if kind == 0:
            await leave(channel.unary_unary(method("wait"))(bytes(picks.choice((0, 300 * KIB)))))
        elif kind == 1:
            await leave(channel.unary_stream(method("talk"))(b""))
        else:
            await leave(channel.stream_stream(method("each"))(bytes(4 * KIB) for _ in range(10_000)))

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(40)))
    assert await channel.unary_unary(method("echo"))(b"still there") == b"still there"
    await until(lambda: not server._active._calls)


_STOPPED_IN_THE_MIDDLE = """
import asyncio, sys, time
import grpc
from resonnx_server.rpc.fronts.aio.server import AioFront
from resonnx_server.rpc.fronts.core.server import CoreFront

class Slow(CoreFront):
    # Between the core's word that it has shut down and what comes after it.
    def _is_shut_down(self, event):
        super()._is_shut_down(event)
        time.sleep(0.003)

async def talk(requests, context):
    async for _ in requests:
        for _ in range(10):
            yield bytes(60_000)
        return

async def hold(request, context):
    await asyncio.sleep(100)

async def one():
    server = {"core": Slow, "aio": AioFront}[sys.argv[1]]([])
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


@pytest.mark.parametrize("front", FRONTS)
def test_a_stop_survives_calls_that_end_after_it_began(front: str) -> None:
    """Handlers have returned, their answers wait to be sent: an operation on a closed queue would end the process."""
    command = [sys.executable, "-c", _STOPPED_IN_THE_MIDDLE, front]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


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


async def test_an_operation_that_grpc_refuses_does_not_hold_up_the_stop(core: Any) -> None:
    _, _, server = core
    event = Mock(**{"call_details.method": b"/test.Service/nothing", "call.start_server_batch.return_value": 8})
    with pytest.raises(RuntimeError, match="gRPC refuses an operation: error 8"):
        server._accepted(event)
    await asyncio.wait_for(server.stop(0), 10)


def _is_idle(server: Any) -> bool:
    if server._active._calls:
        return False
    return server._shared.pending.count == _ACCEPTED_AHEAD if isinstance(server, CoreFront) else not server._tasks


@pytest.mark.parametrize("broken", ["echo", "each"])
async def test_a_call_that_failed_is_kept_for_no_garbage_collection(served: Any, broken: str) -> None:
    """Or whoever sends what does not parse fills the memory with it."""
    _, channel, server = served

    async def bad() -> None:
        if broken == "echo":
            await ended(channel.unary_unary(method("echo"))(b"unparsable"))
        else:
            await ended(channel.stream_stream(method("each"))(iter([b"unparsable"])).read())

    def calls() -> set[int]:
        # Not isinstance: it asks objects that are none of ours what they are, and some warn.
        return {id(kept) for kept in gc.get_objects() if issubclass(type(kept), Call)}

    # What pytest captures of the log would keep the errors.
    logging.disable()
    gc.collect()
    # Those of fronts that other tests have broken.
    before = calls()
    gc.disable()
    try:
        for _ in range(5):
            await bad()
        await until(lambda: _is_idle(server))
        assert calls() <= before
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


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
async def test_a_stop_without_a_start_is_none(front: str) -> None:
    await FRONTS[front]([]).stop(0)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_port_in_use_is_told(front: str) -> None:
    options = [("grpc.so_reuseport", 0)]
    first = FRONTS[front](options)
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    with pytest.raises(OSError, match="cannot listen on"):
        FRONTS[front](options).add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(0)


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


@pytest.mark.parametrize("failures", [1, 100])
async def test_a_queue_that_cannot_be_polled_ends_the_server_unless_it_recovers(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(ops.cygrpc.CompletionQueue):
        left = failures

        def poll(self, *arguments: Any, **named: Any) -> Any:
            if Failing.left and handlers.seen == ["begin"]:
                Failing.left -= 1
                raise RuntimeError("no event")
            return super().poll(*arguments, **named)

    monkeypatch.setattr(ops, "new_queue", Failing)
    handlers, reports, broken = Handlers(), [], threading.Event()
    server = CoreFront([], report=lambda message, error, caller: reports.append(str(error)) or "", on_broken=broken.set)
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary(method("echo"))
        assert await echo(b"before") == b"before"
        handlers.seen = ["begin"]
        if failures == 1:
            assert await echo(b"after", timeout=10) == b"after"
            assert await echo(b"and later", timeout=10) == b"and later"
            assert not broken.is_set()
        else:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await echo(b"after", timeout=1)
            assert await asyncio.to_thread(broken.wait, 10)
    await asyncio.wait_for(server.stop(0), 10)
    assert reports == ["no event"] * min(failures, 3)


async def test_a_queue_that_breaks_during_a_stop_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks = threading.Event()

    class Failing(ops.cygrpc.CompletionQueue):
        def poll(self, *arguments: Any, **named: Any) -> Any:
            if breaks.is_set():
                raise RuntimeError("no event")
            return super().poll(*arguments, **named)

    monkeypatch.setattr(ops, "new_queue", Failing)
    handlers = Handlers()
    server = CoreFront([], report=Mock())
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(method("wait"))(b"")
        await asyncio.wait_for(handlers.entered.wait(), 10)
        stopping = asyncio.create_task(server.stop(60))
        await asyncio.sleep(0)
        breaks.set()
        handlers.go_on.set()
        await asyncio.wait_for(stopping, 10)
        call.cancel()


@pytest.mark.parametrize("front", FRONTS)
async def test_a_refused_call_reaches_no_handler_and_is_kept_for_no_garbage_collection(front: str) -> None:
    """Or whoever has no key fills the memory."""
    handlers, trailers = Handlers(), (("why-bin", b"\x00\xff"),)

    def refuse(path: str, peer: str, metadata: object, tls: object) -> Caller:
        raise Rejected(grpc.StatusCode.UNAUTHENTICATED, f"{path} needs a key", trailers)

    server = FRONTS[front]([], admit=refuse)
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def kept() -> int:
        return sum(issubclass(type(each), Rejected) for each in gc.get_objects())

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        gc.collect()
        before = kept()
        gc.disable()
        try:
            for _ in range(5):
                for name, call in (
                    ("wait", channel.unary_unary(method("wait"))(b"")),
                    ("watch", channel.unary_stream(method("watch"))(b"").read()),
                    # Without a message: if it cannot be written, grpc.aio's client hides the status (grpc/grpc#36066).
                    ("deaf", channel.stream_stream(method("deaf"))().read()),
                ):
                    code, details, found = await ended(call)
                    assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, f"{method(name)} needs a key")
                    assert found["why-bin"] == b"\x00\xff"
            await until(lambda: _is_idle(server))
            assert kept() <= before
        finally:
            gc.enable()
        await server.stop(0)
    assert not handlers.entered.is_set()
