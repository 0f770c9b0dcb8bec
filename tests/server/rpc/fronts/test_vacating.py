"""Clients that are asked to leave: while they have no call, after what is written, and with their last calls served."""

import asyncio
import socket
import time

import grpc
import pytest
from resonnx_server.rpc.fronts.vacating import Vacating

from .service import FRONTS, SERVICE, method, serving

_GO_AWAY = bytes.fromhex("0000080700000000007fffffff00000000")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
async def test_clients_are_asked_when_they_have_no_call_and_grpc_has_written_its_settings(host: str) -> None:
    """By the addresses that gRPC writes; a socket for both versions has other ones for IPv4."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as ours:
        port = ours.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1" if host == "::" else host, port), 10) for _ in range(3)]
        idle, with_call, new = clients
        accepted = [ours.accept()[0] for _ in clients]
        for each in accepted[:2]:
            each.sendall(b"settings")
        number = with_call.getsockname()[1]
        busy = {f"ipv6:%5B::1%5D:{number}" if host == "::1" else f"ipv4:127.0.0.1:{number}", "unix:"}
        vacating = asyncio.create_task(Vacating({port: False}, lambda: busy).run())
        assert await asyncio.to_thread(idle.recv, 8) == b"settings"
        assert await asyncio.to_thread(idle.recv, 100) == _GO_AWAY
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1" if host == "::" else host, port))
        assert with_call.recv(100) == b"settings"
        accepted[1].sendall(b"answer")
        assert with_call.recv(100) == b"answer"
        busy.clear()
        assert await asyncio.to_thread(with_call.recv, 100) == _GO_AWAY
        assert not vacating.done()
        accepted[2].sendall(b"settings")
        assert await asyncio.to_thread(new.recv, 100) == b"settings"
        assert await asyncio.to_thread(new.recv, 100) == _GO_AWAY
        await asyncio.wait_for(vacating, 10)
        for each in (*clients, *accepted):
            each.close()


async def test_a_connection_of_tls_without_calls_ends() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        socket.create_connection(ours.getsockname(), 10) as client,
        ours.accept()[0] as accepted,
    ):
        accepted.sendall(b"answer")
        await asyncio.wait_for(Vacating({ours.getsockname()[1]: True}, lambda: ()).run(), 10)
        with client.makefile("rb") as received:
            assert received.read() == b"answer"


@pytest.mark.parametrize("front", FRONTS)
async def test_no_call_of_a_client_that_does_not_repeat_is_lost(front: str) -> None:
    """One call after the other, over connections to a server that stops, until the client has nowhere to go."""
    lost = answered = 0
    for _ in range(5):
        async with serving(front) as (_, channel, server):
            echo = channel.unary_unary(method("echo"))
            vacating = None
            began = time.monotonic()
            while True:
                try:
                    assert await echo(b"") == b""
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    # It could not connect again.
                    lost += "connect" not in (error.details() or "")
                    break
                if vacating is None and time.monotonic() > began + 0.05:
                    vacating = asyncio.create_task(server.vacate([SERVICE]))
            assert vacating is not None
            await asyncio.wait_for(vacating, 10)
    assert answered
    assert lost == 0
