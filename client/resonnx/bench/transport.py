"""Sends serialised requests as unary calls or pipelined over streams, and returns their outcomes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle, islice
from typing import Any, Final

import grpc

from resonnx._errors import Internal, from_rpc_error
from resonnx._transport.access import NO_ACCESS, Access
from resonnx._transport.channel import MAX_MESSAGE_BYTES, targets
from resonnx._transport.ending import Ending
from resonnx.bench.load import Call
from resonnx.bench.summary import OK
from resonnx.bench.traffic import Traffic

# Timeout of calls without deadline, so that a run ends.
_LONGEST_CALL_S: Final = 30.0

_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Refusals are counted, not retried.
    ("grpc.enable_retries", 0),
    # Otherwise channels to the same address share a connection.
    ("grpc.use_local_subchannel_pool", 1),
]


def sender(
    server: str, traffic: Traffic, connections: int, access: Access = NO_ACCESS, *, stream: bool = False
) -> AbstractAsyncContextManager[Call]:
    """Open the connections of a run, which are used in turn.

    Args:
        server: HOST:PORT.
        traffic: The requests; must have a stream if `stream` is true.
        connections: Number of connections.
        access: Key and TLS.
        stream: Whether requests are pipelined over a stream on each connection.
    """
    return (_streams if stream else _unary)(server, traffic, connections, access)


@asynccontextmanager
async def _unary(server: str, traffic: Traffic, connections: int, access: Access) -> AsyncGenerator[Call]:
    channels = [access.aio_channel(target, _OPTIONS) for target in _targets(server, connections)]
    # Without serialisers: requests and responses are bytes.
    methods: list[Any] = [channel.unary_unary(traffic.path) for channel in channels]
    requests, metadata = traffic.requests, access.metadata

    async def call(number: int, left_s: float | None) -> tuple[str, str]:
        method = methods[number % len(methods)]
        try:
            timeout_s = _LONGEST_CALL_S if left_s is None else left_s
            await method(requests[number % len(requests)], timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return OK, ""

    try:
        yield call
    finally:
        for channel in channels:
            await channel.close()


@asynccontextmanager
async def _streams(server: str, traffic: Traffic, connections: int, access: Access) -> AsyncGenerator[Call]:
    streams = [_Stream(target, traffic, access) for target in _targets(server, connections)]

    async def call(number: int, left_s: float | None) -> tuple[str, str]:
        return await streams[number % len(streams)].call(number, left_s)

    try:
        yield call
    finally:
        for stream in streams:
            await stream.close()


def _targets(server: str, connections: int) -> list[str]:
    """Return the address of each connection; several servers in turn."""
    return list(islice(cycle(targets(server)), connections))


class _Stream:
    """A bidirectional stream on its own connection; answers, which may come in any order, are matched by id."""

    def __init__(self, server: str, traffic: Traffic, access: Access) -> None:
        assert traffic.stream is not None
        self._requests, self._method = traffic.requests, traffic.stream
        self._channel = access.aio_channel(server, _OPTIONS)
        # call.write() allows only one write at a time.
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[tuple[str, str]]] = {}
        method: Any = self._channel.stream_stream(self._method.path)
        self._call = method(self._sent(), metadata=access.metadata)
        self._ending = Ending(self._call)
        self._ended: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    async def call(self, number: int, left_s: float | None) -> tuple[str, str]:
        """Send a request and return its status code and message.

        Raises:
            ResonnxError: The stream has ended.
        """
        if self._ended is not None:
            raise self._ended
        id = str(number)
        answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting[id] = answer
        request = self._requests[number % len(self._requests)]
        self._outbox.put_nowait(request + self._method.numbered(id, left_s))
        return await answer

    async def close(self) -> None:
        """Close the stream and the connection."""
        self._reader.cancel()
        self._call.cancel()
        await self._channel.close()

    async def _sent(self) -> AsyncGenerator[bytes]:
        while True:
            yield await self._outbox.get()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                id, code, text = self._method.outcome(message)
                answer = self._waiting.pop(id, None)
                if answer is not None and not answer.done():
                    answer.set_result((code, text))
            self._end(Internal("the server ended the stream"))
        except grpc.RpcError as error:
            self._end(from_rpc_error(await self._ending.unmasked(error)))

    def _end(self, error: Exception) -> None:
        self._ended = error
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
