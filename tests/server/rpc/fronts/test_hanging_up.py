"""Connections that end from the server's side: clients repeat elsewhere what came too late."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import grpc
import pytest
from resonnx_server.rpc.fronts.hanging_up import end_sending, hang_up

from .service import FRONTS, method, serving


async def _call_on(call: Callable[[bytes], Awaitable[bytes]], codes: set[str]) -> None:
    """Make one call after the other, over new connections if need be."""
    while True:
        try:
            await call(b"")
        except grpc.aio.AioRpcError as error:
            codes.add(error.code().name)


@pytest.mark.parametrize("front", FRONTS)
async def test_calls_that_arrive_during_a_stop_are_unavailable(front: str) -> None:
    """gRPC's own shutdown answers some of them with CANCELLED."""
    codes = set[str]()
    for _ in range(3):
        async with serving(front) as (_, channel, server):
            echo = channel.unary_unary(method("echo"))
            assert await echo(b"") == b""
            clients = [asyncio.create_task(_call_on(echo, codes)) for _ in range(32)]
            await asyncio.sleep(0.02)
            await asyncio.wait_for(server.stop(5), 20)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    assert codes == {"UNAVAILABLE"}


async def test_only_connections_of_the_port_end_and_after_what_is_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as others:
        with (
            socket.create_connection(ours.getsockname()) as client,
            socket.create_connection(others.getsockname()) as other_client,
            ours.accept()[0] as accepted,
            others.accept()[0] as other,
        ):
            accepted.sendall(b"answer")
            assert end_sending({ours.getsockname()[1]}) == 1
            with client.makefile("rb") as received:
                assert received.read() == b"answer"
            other.sendall(b"still there")
            assert other_client.recv(100) == b"still there"
            client.sendall(b"still read")
            assert accepted.recv(100) == b"still read"
        await asyncio.wait_for(hang_up({ours.getsockname()[1]}), 0.4)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(ours.getsockname())
        socket.create_connection(others.getsockname()).close()
