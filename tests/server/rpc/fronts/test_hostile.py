"""Clients that do not read, and calls that no client of gRPC makes, on either front."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from resonnx_server.rpc.boundary import one_status
from resonnx_server.rpc.pipeline import pipeline

from ...waiting import until
from .service import FRONTS, KIB, SERVICE, Handlers, ended, method

_OK = grpc.StatusCode.OK


class _Teller:
    """Tells a thousand parts, whether or not anybody reads."""

    def __init__(self) -> None:
        self.is_over = False

    @one_status
    async def tell(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async def answer(request: bytes, tell: Callable[[bytes], None]) -> bytes:
            for _ in range(1000):
                tell(bytes(64 * KIB))
                await asyncio.sleep(0)
            return b"end"

        try:
            await pipeline(requests, answer, context, asyncio.Event())
        finally:
            self.is_over = True


async def test_a_slow_reader_is_told_why_its_call_ended(served: Any) -> None:
    _, channel, server = served
    teller = _Teller()
    handler = grpc.stream_stream_rpc_method_handler(teller.tell, bytes, bytes)
    server.add_registered_method_handlers(SERVICE, {"tell": handler})
    call = channel.stream_stream(method("tell"))(iter([b"all"]))
    await until(lambda: teller.is_over)
    read = 0

    async def read_all() -> None:
        nonlocal read
        async for _ in call:
            read += 1

    code, details, trailers = await ended(asyncio.wait_for(read_all(), 20))
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "256 parts of answers were not read in time")
    assert trailers["grpc-retry-pushback-ms"] == "-1"
    assert read < 500, "what was not sent is dropped"


def _call_of_bytes(port: int, path: bytes) -> None:
    """Call a method by HTTP/2 as it stands on the wire, and wait for what comes back."""

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content

    fields = {b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"x", b"te": b"trailers"}
    fields[b"content-type"] = b"application/grpc"
    headers = b"".join(bytes([0, len(name)]) + name + bytes([len(text)]) + text for name, text in fields.items())
    settings_, request = frame(4, 0, 0, b""), frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_ + request)
        received = b""
        while b"grpc-status" not in received:
            received += connection.recv(4096) or pytest.fail("the connection was closed without an answer")


# Of calls to a server that is ending, has ended, or is starting.
_AWAY = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("front", FRONTS)
async def test_a_path_that_is_no_text_stops_nothing(front: str) -> None:
    """grpc.aio of grpcio 1.85 fails at it, and is started again; calls under way go on."""
    handlers = Handlers()
    server = FRONTS[front]([("grpc.so_reuseport", 0)])
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            waiting = channel.unary_unary(method("wait"))(b"")
            await asyncio.wait_for(handlers.entered.wait(), 10)
            for path in (b"/test.Service/\xff", b"\xff"):
                await asyncio.to_thread(_call_of_bytes, port, path)
                async with asyncio.timeout(20):
                    while (code := await channel.unary_unary(method("echo"))(b"", timeout=10).code()) is not _OK:
                        # Only grpc.aio's server is away for a moment.
                        assert front == "aio"
                        assert code in _AWAY
                        await asyncio.sleep(0.01)
            handlers.go_on.set()
            assert await waiting == b"waited"
            # Failed servers are kept only until their calls have ended.
            await until(lambda: not getattr(server, "_failed", []))
    finally:
        await server.stop(0)
