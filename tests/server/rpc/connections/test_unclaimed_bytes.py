"""Connections whose bytes become no messages: which are ended, and what counts for nothing."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from resonnx_server.observe.connections import Connections
from resonnx_server.rpc.connections.endpoints import endpoint
from resonnx_server.rpc.connections.unclaimed_bytes import UnclaimedBytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bytes of connections are Linux's to tell")

MUCH = 100_000


class Port:
    """A port with connections, and what they have brought."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.claimed: dict[str, int] = {}
        self.receiving: set[str] = set()
        self.counts = Connections()
        self.brought = UnclaimedBytes(self.claimed, lambda: self.receiving, self.counts)
        self.brought.ports.add(self._listening.getsockname()[1])
        self.accepted: dict[str, socket.socket] = {}

    def connect(self) -> tuple[socket.socket, str]:
        """Return a client's end of a connection, and gRPC's address of it."""
        client = self._stack.enter_context(socket.create_connection(self._listening.getsockname()))
        accepted, (host, port) = self._listening.accept()
        peer = f"ipv4:{host}:{port}"
        self.accepted[peer] = self._stack.enter_context(accepted)
        return client, peer

    def bring(self, client: socket.socket, peer: str, nbytes: int) -> None:
        """Send bytes, and return when they have come."""
        client.sendall(bytes(nbytes))
        self.accepted[peer].recv(nbytes, socket.MSG_WAITALL)


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


def _is_reset(client: socket.socket) -> None:
    client.settimeout(20)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def _is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_the_worst_is_ended_and_those_with_messages_are_not(port: Port) -> None:
    (worst, its), (honest, own), (busy, their), (slight, small) = (port.connect() for _ in range(4))
    for client, peer in ((worst, its), (honest, own), (busy, their)):
        port.bring(client, peer, MUCH)
    port.bring(slight, small, MUCH // 3)
    port.claimed[own] = MUCH
    port.receiving.add(their)
    assert not port.brought.is_quiet()
    assert port.brought.end_worst() == 1
    _is_reset(worst)
    assert all(map(_is_open, (honest, busy, slight)))
    assert port.counts.ended_for_memory == 1
    port.accepted[its].close()
    assert port.brought.end_worst() == 1, "the next"
    _is_reset(slight)


def test_what_was_brought_while_memory_was_free_counts_for_nothing(port: Port) -> None:
    client, peer = port.connect()
    port.bring(client, peer, MUCH)
    port.brought.look(0.0)
    assert port.brought.is_quiet()
    port.bring(client, peer, MUCH)
    port.brought.look(1.0)
    assert not port.brought.is_quiet(), "not so soon again"
    port.brought.look(1000.0)
    assert port.brought.is_quiet()


def test_half_a_message_is_forgiven_once(port: Port) -> None:
    client, peer = port.connect()
    port.receiving.add(peer)
    port.bring(client, peer, MUCH)
    port.brought.look(0.0)
    port.receiving.clear()
    port.claimed[peer] = MUCH
    assert port.brought.is_quiet()
    port.bring(client, peer, MUCH)
    assert not port.brought.is_quiet(), "as the first half was not forgiven"


def test_clients_that_are_gone_are_forgotten(port: Port) -> None:
    client, peer = port.connect()
    port.claimed |= {peer: 1, "ipv4:127.0.0.1:9": 1}
    port.brought.look(0.0)
    assert port.claimed.keys() == {peer, "ipv4:127.0.0.1:9"}, "it may be new"
    port.brought.look(1000.0)
    assert port.claimed.keys() == {peer}
    port.accepted[peer].close()
    client.close()
    for now_s in (2000.0, 3000.0):
        port.brought.look(now_s)
    assert not port.claimed


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:203.0.113.7:41234", ("203.0.113.7", 41234)),
        ("ipv6:[2001:db8::1]:5", ("2001:db8::1", 5)),
        ("ipv6:%5B::ffff:203.0.113.7%5D:5", ("203.0.113.7", 5)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", ("fe80::1", 5)),
        ("unix:/tmp/socket", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_addresses_are_those_of_the_system(peer: str, client: tuple[str, int]) -> None:
    assert endpoint(peer) == client
