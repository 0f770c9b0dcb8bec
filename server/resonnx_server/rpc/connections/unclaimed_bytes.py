"""Ends connections whose bytes become no messages, where memory is spent.

Headers without end, calls that are reset at once, and messages that gRPC has not handed over are in gRPC's memory,
where nothing tells whose they are. The system tells how much each connection has brought.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from resonnx_server.access.caller import host_and_port
from resonnx_server.observe.connections import Connections
from resonnx_server.observe.line_limit import LineLimit
from resonnx_server.runtime.machine import own_sockets

_log = logging.getLogger(__name__)

# A connection has brought so much without a message: its beginning, TLS's certificates, pings. A byte of headers takes
# up to 200 bytes of memory.
_LEAST: Final = 8192
# Of connections that are ended together, the least part of what the worst has brought.
_ALIKE: Final = 2
# What connections have brought is forgotten so often, and more rarely if there are many: a look takes about 12 µs for
# each socket.
_INTERVAL_S: Final = 10.0
_INTERVAL_OF_SOCKET_S: Final = 0.002
# Sockets that are looked at before other threads get their turn: half a millisecond.
_AT_ONCE: Final = 32
_LINES_PER_S: Final = 1
_KEPT_PEERS: Final = 4096

# Address and port of a client.
Endpoint = tuple[str, int]


class UnclaimedBytes:
    """What connections have brought beside messages. All methods are for one thread, beside the event loop.

    Args:
        claimed: Bytes of the messages that were handed over, with what frames and headers add, by gRPC's address of the
            client. Entries of connections that are gone are removed.
        receiving: Returns gRPC's addresses of clients whose messages are being received, if that is known.
        counts: Is told what was done.

    Attributes:
        ports: The ports, which this process listens on.
    """

    def __init__(
        self, claimed: dict[str, int], receiving: Callable[[], Collection[str]], counts: Connections | None = None
    ) -> None:
        self.ports: set[int] = set()
        self._claimed = claimed
        self._receiving = receiving
        self._counts = counts or Connections()
        # What counts for nothing, by client: what it had brought at the last look while memory was not spent.
        self._forgiven: dict[Endpoint, int] = {}
        self._gone: set[str] = set()
        self._due_s = 0.0
        self._lines = LineLimit(_LINES_PER_S)

    def look(self, now_s: float) -> None:
        """Forget what connections have brought, if that is due; called while memory is not spent."""
        if now_s < self._due_s:
            return
        looked_at = 0
        receiving = set(map(endpoint, self._receiving()))
        forgiven: dict[Endpoint, int] = {}
        for _, client, excess in self._connections():
            looked_at += 1
            # Half a message is forgiven only once it is whole: the rest of it would be forgiven twice.
            forgiven[client] = min(excess, self._forgiven.get(client, 0)) if client in receiving else excess
        self._forgiven = forgiven
        self._forget_gone(forgiven)
        self._due_s = now_s + max(_INTERVAL_S, looked_at * _INTERVAL_OF_SOCKET_S)

    def end_worst(self) -> int:
        """End the connections that have brought most beside messages, and return their number.

        Those whose messages are being received are left: such calls are ended one by one.
        """
        heavy = sorted(self._heavy(), reverse=True)
        if not heavy:
            return 0
        most = heavy[0][0]
        ended = 0
        for excess, descriptor, client in heavy:
            # gRPC may have closed it, and have another connection with this descriptor.
            if excess * _ALIKE >= most and self._client(descriptor) == client and own_sockets.cut(descriptor):
                ended += 1
        self._counts.ended_for_memory += ended
        if ended and self._lines.admit() is not None:
            extra = {"address": heavy[0][2][0], "bytes": most, "connections": ended}
            _log.warning("memory is spent: connections that bring no messages are ended", extra=extra)
        return ended

    def is_quiet(self) -> bool:
        """Whether no connection has brought much beside messages."""
        return not any(True for _ in self._heavy())

    def _heavy(self) -> Iterator[tuple[int, int, Endpoint]]:
        """Yield bytes, descriptor and client of connections that have brought much beside messages."""
        # Before what they have brought is read.
        receiving = set(map(endpoint, self._receiving()))
        for descriptor, client, excess in self._connections():
            before = self._forgiven.get(client, 0)
            if excess < before:
                self._forgiven[client] = before = excess
            if excess - before >= _LEAST and client not in receiving:
                yield excess - before, descriptor, client

    def _connections(self) -> Iterator[tuple[int, Endpoint, int]]:
        """Yield descriptor and client of each connection, and what it has brought beyond its messages."""
        found: list[tuple[int, Endpoint, int]] = []
        for place, descriptor in enumerate(own_sockets.descriptors(), 1):
            if (client := self._client(descriptor)) is not None:
                found.append((descriptor, client, own_sockets.received_bytes(descriptor)))
            if place % _AT_ONCE == 0:
                time.sleep(0)
        # Not before: a message may be handed over meanwhile.
        claimed = {endpoint(peer): nbytes for peer, nbytes in list(self._claimed.items())}
        for descriptor, client, nbytes in found:
            yield descriptor, client, nbytes - claimed.get(client, 0)

    def _client(self, descriptor: int) -> Endpoint | None:
        """Return the client of a descriptor; None if it is no connection of the ports."""
        for port in self.ports:
            found = own_sockets.peer(descriptor, port)
            if found is not None:
                return (_plain(found[0]), found[1]) if found[0] else None
        return None

    def _forget_gone(self, known: Collection[Endpoint]) -> None:
        """Remove what clients have claimed that were gone at the last look as well: new ones may not have been seen."""
        gone = {peer for peer in list(self._claimed) if endpoint(peer) not in known}
        for peer in gone & self._gone:
            self._claimed.pop(peer, None)
        self._gone = gone - self._gone


@lru_cache(_KEPT_PEERS)
def endpoint(peer: str) -> Endpoint:
    """Return address and port of gRPC's address of a client, "ipv4:203.0.113.7:41234"; ("", 0) for other kinds."""
    host, port = host_and_port(peer)
    return (_plain(host), int(port)) if peer.startswith("ip") and port.isdecimal() else ("", 0)


@lru_cache(_KEPT_PEERS)
def _plain(host: str) -> str:
    """Return an address as the system and gRPC both write it: that of IPv4 in IPv6 without "::ffff:"."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
