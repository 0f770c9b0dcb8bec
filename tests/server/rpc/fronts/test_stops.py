"""How a front ends: while calls are under way, with nothing to do, and when its queue breaks."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.server import CoreFront

from .service import FRONTS, SERVICE, Handlers, method

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


async def test_an_operation_that_grpc_refuses_does_not_hold_up_the_stop(core: Any) -> None:
    _, _, server = core
    event = Mock(**{"call_details.method": b"/test.Service/nothing", "call.start_server_batch.return_value": 8})
    with pytest.raises(RuntimeError, match="gRPC refuses an operation: error 8"):
        server._accepted(event)
    await asyncio.wait_for(server.stop(0), 10)


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
