"""Streams of grpc.aio leave no charge behind."""

import asyncio
from types import SimpleNamespace
from typing import Any

from resonnx_server.access.caller import unnamed
from resonnx_server.memory.budget import Budget
from resonnx_server.rpc.fronts.aio.call import AioStreamCall
from resonnx_server.rpc.fronts.call import Metadata
from resonnx_server.rpc.fronts.intake import Intake


class Context:
    """A call whose messages come, and whose answers are taken, when the test says so."""

    def __init__(self) -> None:
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.is_asked, self.is_taken = asyncio.Event(), asyncio.Event()

    def time_remaining(self) -> None:
        pass

    def invocation_metadata(self) -> Metadata:
        return ()

    async def read(self) -> bytes:
        self.is_asked.set()
        return await self.message

    async def write(self, message: bytes) -> None:
        await self.is_taken.wait()


async def test_a_message_that_comes_while_the_last_answer_is_sent_is_not_charged() -> None:
    context, budget = Context(), Budget(1 << 30)

    async def handle(requests: Any, call: AioStreamCall) -> None:
        call.put(b"answer")
        reader = asyncio.create_task(anext(requests))
        await context.is_asked.wait()
        reader.cancel()

    handler = SimpleNamespace(
        request_streaming=True, unary_unary=None, unary_stream=None, stream_stream=handle, response_serializer=bytes
    )
    call = AioStreamCall(handler, context, unnamed("ipv4:192.0.2.1:1"), Intake(budget), set())

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        await call.run(task, None)

    running = asyncio.create_task(run())
    while not call._over:
        await asyncio.sleep(0)
    context.message.set_result(bytes(1 << 20))
    assert call._reading is not None
    await call._reading
    context.is_taken.set()
    await running
    await asyncio.sleep(0)
    assert budget.used == 0
