"""A service with every kind of method, on either front, and helpers of its tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from resonnx_server.rpc.fronts.aio.server import AioFront
from resonnx_server.rpc.fronts.core.server import CoreFront
from resonnx_server.rpc.fronts.front import Front

SERVICE = "test.Service"
KIB = 1 << 10
FRONTS: dict[str, Any] = {"core": CoreFront, "aio": AioFront}


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

    async def who(self, request: bytes, context: Any) -> bytes:
        metadata = [tuple(item) for item in context.metadata if item[0].startswith("x-")]
        return repr((context.caller.name, metadata)).encode()

    async def who_streams(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        yield await self.who(b"", context)

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
            unary: (self.echo, self.who, self.wait, self.remaining, self.refuse, self.fail),
            stream: (self.count, self.watch, self.talk),
            both: (self.each, self.who_streams, self.deaf, self.break_off),
        }
        return {method.__name__: kind(method, _parse, bytes) for kind, methods in kinds.items() for method in methods}


@asynccontextmanager
async def serving(kind: str) -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Front]]:
    handlers = Handlers()
    server: Front = FRONTS[kind]([])
    server.add_registered_method_handlers(SERVICE, handlers.all())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield handlers, channel, server
        await server.stop(0)


def method(name: str) -> str:
    return f"/{SERVICE}/{name}"


async def ended(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call
    error = ended.value
    return error.code(), error.details() or "", dict(list(error.trailing_metadata() or ()))
