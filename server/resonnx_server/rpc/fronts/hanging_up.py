"""Ends the connections of ports from the server's side, after what is written.

gRPC sends GOAWAY only when it shuts down, and answers calls that arrive meanwhile with CANCELLED, which clients do not
repeat. A client whose connection ends sees UNAVAILABLE, and a proxy may send the call to another server.
"""

import asyncio
import socket
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import ip_address
from typing import Final, NamedTuple

from resonnx_server.runtime.machine import own_sockets

_LOOKS: Final = 50
_INTERVAL_S: Final = 0.01
# gRPC writes "[", "]" and the "%" of a zone as in an address of the web.
_CODES: Final = (("%5B", "["), ("%5D", "]"), ("%25", "%"))


class Connections(NamedTuple):
    """Numbers of connections: those that are ended, of which the clients have not left, and those left alone."""

    ended: int
    spared: int


async def vacate(ports: Collection[int], busy: Callable[[], Collection[str]]) -> None:
    """Take no more connections, and end each one when it has no call under way; wait until none has.

    Args:
        ports: Of this process.
        busy: Returns gRPC's addresses of the clients that have calls under way.
    """
    while end_sending(ports, busy()).spared:  # noqa: ASYNC110 - gRPC does not tell of connections
        await asyncio.sleep(_INTERVAL_S)


async def hang_up(ports: Collection[int]) -> None:
    """End the connections of this process's ports, and wait for their clients to leave, for 0.5 s. No more can connect.

    The clients get what is written, and then the connection's end.
    """
    for _ in range(_LOOKS):
        # Each time, as gRPC may have accepted some meanwhile.
        if not end_sending(ports).ended:
            return
        await asyncio.sleep(_INTERVAL_S)


def end_sending(ports: Collection[int], busy: Collection[str] = ()) -> Connections:
    """Stop listening on the ports, and send FIN over their connections, after what is written.

    Args:
        ports: Of this process.
        busy: gRPC's addresses of clients whose connections are left alone.
    """
    end = partial(_end, ports, {_client(peer) for peer in busy})
    outcomes = [own_sockets.ask(descriptor, end) for descriptor in own_sockets.descriptors()]
    return Connections(outcomes.count(True), outcomes.count(False))


def _end(ports: Collection[int], spared: Collection[tuple[str, int]], borrowed: socket.socket) -> bool | None:
    """End a connection of one of the ports; returns whether it was ended, or None if it is not one of them."""
    own = borrowed.getsockname()
    # Addresses of other kinds of sockets are no tuples.
    if not isinstance(own, tuple) or own[1] not in ports:
        return None
    if borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        borrowed.shutdown(socket.SHUT_RD)
        return None
    if spared:
        host, port, *_ = borrowed.getpeername()
        if (_host(host), port) in spared:
            return False
    borrowed.shutdown(socket.SHUT_WR)
    return True


def _client(peer: str) -> tuple[str, int]:
    """Return the host and port of gRPC's address of a client, such as "ipv6:%5B::1%5D:41234"; ("", 0) for others."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "", 0
    for code, character in _CODES:
        rest = rest.replace(code, character)
    host, _, port = rest.rpartition(":")
    return _host(host.strip("[]")), int(port)


def _host(host: str) -> str:
    """Return an address in its shortest form and without a zone, as the system and gRPC write it differently."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
