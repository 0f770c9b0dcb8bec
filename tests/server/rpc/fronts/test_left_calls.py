"""What is left of calls that have ended: nothing, and no garbage collection is needed for it."""

import asyncio
import gc
import logging
import random
from typing import Any

import grpc
import pytest
from resonnx_server.access.caller import Caller
from resonnx_server.rpc.fronts.call import Call, Rejected
from resonnx_server.rpc.fronts.core.server import _ACCEPTED_AHEAD, CoreFront

from ...waiting import until
from .service import FRONTS, KIB, SERVICE, Handlers, ended, method


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
