"""Asks the clients of a port to connect elsewhere, by HTTP/2's GOAWAY, while their calls on it are served.

gRPC sends GOAWAY only when it shuts down, and answers calls that arrive meanwhile with CANCELLED, which neither clients
nor proxies repeat. So the frame is written beside gRPC, while the connection has no call, when gRPC writes nothing.
Where TLS is used that cannot be done: such connections are ended while they have no call.
"""

import asyncio
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from resonnx_server.rpc.connections.endpoints import Endpoint, endpoint, plain_host
from resonnx_server.runtime.machine import own_sockets

# Frame of 8 bytes, type 7, no flags, stream 0; the last stream that is served: any; NO_ERROR.
_GO_AWAY: Final = bytes.fromhex("000008 07 00 00000000 7fffffff 00000000")
# Between looks, and more for each descriptor, of which a look takes about 10 µs.
_INTERVAL_S: Final = 0.002
_INTERVAL_OF_DESCRIPTOR_S: Final = 0.00004
# Calls that are sent before the client has read GOAWAY arrive within this time.
_LAST_CALLS_S: Final = 0.25


@dataclass
class Vacating:
    """The connections of ports that clients are asked to leave.

    Args:
        ports: Ports of this process, and whether they use TLS.
        busy: Returns gRPC's addresses of the clients that have calls under way.
    """

    ports: dict[int, bool]
    busy: Callable[[], Collection[str]]
    # When clients were asked.
    _asked: dict[Endpoint, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Take no more connections, ask each client when it has no call, and wait until no more calls come."""
        while number := self._look():  # noqa: ASYNC110 - gRPC does not tell of connections
            await asyncio.sleep(max(_INTERVAL_S, number * _INTERVAL_OF_DESCRIPTOR_S))

    def _look(self) -> int:
        """Ask those that can be asked; returns the number of open files, or 0 if no more calls are to come."""
        busy = {endpoint(peer) for peer in self.busy()}
        descriptors = own_sockets.descriptors()
        found = [own_sockets.ask(descriptor, lambda each: self._ask_to_leave(each, busy)) for descriptor in descriptors]
        return len(descriptors) if any(found) else 0

    def _ask_to_leave(self, connection: socket.socket, busy: Collection[Endpoint]) -> bool:
        """Stop listening, or ask the client of a connection; returns whether calls may come over it."""
        own = connection.getsockname()
        # Addresses of other kinds of sockets are no tuples.
        uses_tls = self.ports.get(own[1]) if isinstance(own, tuple) else None
        if uses_tls is None:
            return False
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            connection.shutdown(socket.SHUT_RD)
            return False
        host, port, *_ = connection.getpeername()
        client = plain_host(host), port
        if client in busy:
            return True
        if uses_tls:
            connection.shutdown(socket.SHUT_WR)
            return False
        now = asyncio.get_running_loop().time()
        if client not in self._asked:
            if not own_sockets.has_sent_all(connection):
                # gRPC has not written its settings, which must come first, or the connection is full.
                return True
            connection.send(_GO_AWAY, socket.MSG_DONTWAIT)
            self._asked[client] = now
        return now - self._asked[client] < _LAST_CALLS_S
