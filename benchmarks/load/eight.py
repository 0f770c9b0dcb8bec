"""Eight clients of one classifier, four over gRPC and four over REST, which note the class of each answer."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import aiohttp
import grpc
import numpy as np
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

CLIENTS: Final = 8
_TIMEOUT_S: Final = 60.0
# Connections that a burst has needed are closed then.
_IDLE_S: Final = 2.0

Ask = Callable[[], Awaitable[int]]


@dataclass
class Eight:
    """Sends one picture of raw pixels: two unary gRPC clients, two streams, four REST clients (binary tensors).

    Args:
        grpc_address: HOST:PORT.
        http_address: HOST:PORT.
        model: Its name.
        side: Side of its pictures, in pixels.

    Attributes:
        answers: When each request was due and was answered, in monotonic seconds, and its class.
        failures: Of requests.
    """

    grpc_address: str
    http_address: str
    model: str
    side: int
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pixels = bytes(self.side**2 * 3)
        raw = vision_pb2.Image.Raw(rgb=self._pixels, width=self.side, height=self.side)
        self._request = vision_pb2.ClassifyRequest(model=self.model, image={"raw": raw}, top_k=1)

    async def run(self, over: asyncio.Event, rate: float | None = None) -> None:
        """Send until `over`: `rate` requests a second with Poisson arrivals, or without one, each after an answer."""
        async with AsyncExitStack() as stack:
            each = None if rate is None else rate / CLIENTS
            asks: list[Ask] = []
            streams = []
            for number in range(4):
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(self.grpc_address))
                stub = vision_pb2_grpc.VisionStub(channel)
                if number % 2:
                    asks.append(partial(self._unary, stub))
                else:
                    streams.append(self._stream(stub, each, over))
            for _ in range(4):
                connector = aiohttp.TCPConnector(keepalive_timeout=_IDLE_S)
                session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
                asks.append(partial(self._rest, session))
            clients = [self._open(ask, each, over) if each else self._closed(ask, over) for ask in asks]
            await asyncio.gather(*clients, *streams)

    async def ask(self) -> int:
        """Return the class of one answer over gRPC, which is not noted."""
        async with grpc.aio.insecure_channel(self.grpc_address) as channel:
            return await self._unary(vision_pb2_grpc.VisionStub(channel))

    def p99_ms(self, since: float, until: float) -> float:
        """Return the 99th percentile of the times of requests that were due within a time; infinite without one."""
        times = [1e3 * (end - due) for due, end, _ in self.answers if since <= due < until]
        return float(np.percentile(times, 99)) if times else float("inf")

    async def _unary(self, stub: vision_pb2_grpc.VisionStub) -> int:
        answer = await stub.Classify(self._request, timeout=_TIMEOUT_S)
        return int(answer.predictions[0].index)

    async def _rest(self, session: aiohttp.ClientSession) -> int:
        size = {"binary_data_size": len(self._pixels)}
        given = {"name": "image", "datatype": "UINT8", "shape": [1, self.side, self.side, 3], "parameters": size}
        asked = {"name": "logits", "parameters": {"classification": 1}}
        header = json.dumps({"inputs": [given], "outputs": [asked]}).encode()
        url = f"http://{self.http_address}/v2/models/{self.model}/infer"
        sent = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        async with session.post(url, data=header + self._pixels, headers=sent) as response:
            content = await response.json()
            if response.status != 200:
                raise aiohttp.ClientError(f"{response.status}: {content}")
        # VALUE:INDEX or VALUE:INDEX:LABEL
        return int(content["outputs"][0]["data"][0].split(":")[1])

    async def _open(self, ask: Ask, rate: float, over: asyncio.Event) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not over.is_set():
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(ask, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _closed(self, ask: Ask, over: asyncio.Event) -> None:
        while not over.is_set():
            await self._one(ask, time.monotonic())

    async def _one(self, ask: Ask, due: float) -> None:
        try:
            answer = await ask()
        except (grpc.RpcError, aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(str(error))
        else:
            self.answers.append((due, time.monotonic(), answer))

    async def _stream(self, stub: vision_pb2_grpc.VisionStub, rate: float | None, over: asyncio.Event) -> None:
        due_by_id: dict[str, float] = {}
        # One request at a time in a closed loop.
        room = asyncio.Semaphore(1)

        async def requests() -> AsyncIterator[vision_pb2.ClassifyRequest]:
            due, number = time.monotonic(), 0
            while not over.is_set():
                if rate is None:
                    await room.acquire()
                    due = time.monotonic()
                else:
                    due += random.expovariate(rate)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                number += 1
                request = vision_pb2.ClassifyRequest(id=str(number))
                request.MergeFrom(self._request)
                due_by_id[request.id] = due
                yield request

        try:
            async for answer in stub.ClassifyStream(requests()):
                room.release()
                due = due_by_id.pop(answer.id)
                if answer.HasField("error"):
                    self.failures.append(str(answer.error))
                else:
                    self.answers.append((due, time.monotonic(), int(answer.response.predictions[0].index)))
        except grpc.RpcError as error:
            self.failures.append(str(error))
        self.failures += [f"request {identity} of a stream was not answered" for identity in due_by_id]
