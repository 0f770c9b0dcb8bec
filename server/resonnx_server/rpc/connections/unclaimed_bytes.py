"""Resets connections that have brought bytes but no messages, when the memory budget is spent.

Endless headers, calls that are reset at once, and messages that gRPC has not handed over are in gRPC's memory, and gRPC
does not tell whose they are. The system tells how many bytes each connection has brought.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from resonnx_server.observe.connections import Connections
from resonnx_server.observe.line_limit import LineLimit
from resonnx_server.rpc.connections.endpoints import Endpoint, endpoint, plain_host
from resonnx_server.runtime.machine import own_sockets

_log = logging.getLogger(__name__)

# Bytes without a message from which on a connection may be ended; its start, TLS's certificates and pings are fewer.
# A byte of headers takes up to 200 bytes of memory.
_LEAST: Final = 8192
# Connections are ended together with the worst one if they have brought at least 1/2 of its bytes.
_ALIKE: Final = 2
# Seconds between two times at which bytes are forgiven, and more for each socket, of which a look takes about 12 µs.
_INTERVAL_S: Final = 10.0
_INTERVAL_OF_SOCKET_S: Final = 0.002
# Sockets that are looked at before other threads get their turn: half a millisecond.
_AT_ONCE: Final = 32
_LINES_PER_S: Final = 1


class UnclaimedBytes:
    """Bytes that connections have brought and that became no messages. For one thread other than the event loop's.

    Args:
        claimed: Bytes of the messages that were handed over, with what frames and headers add, by gRPC's address of the
            client. Entries of connections that are gone are removed.
        receiving: Returns gRPC's addresses of clients whose messages are being received, if that is known.
        counts: Counts the connections that are ended.

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
        # Bytes that are forgiven, by client: those without a message at the last look while memory was not spent.
        self._forgiven: dict[Endpoint, int] = {}
        self._gone: set[str] = set()
        self._due_s = 0.0
        self._lines = LineLimit(_LINES_PER_S)

    def look(self, now_s: float) -> None:
        """Forgive the bytes that connections have brought so far, if that is due; called while memory is not spent.

        Args:
            now_s: Monotonic time in seconds.
        """
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
        """Reset the connections with the most bytes without a message, and return their number.

        Connections that receive a message are left, as calls that receive are ended one by one (Intake.evict).
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
        """Whether no connection has brought 8 KiB or more without a message."""
        return not any(True for _ in self._heavy())

    def _heavy(self) -> Iterator[tuple[int, int, Endpoint]]:
        """Yield bytes, descriptor and client of connections that have brought 8 KiB or more without a message."""
        # Before their bytes are read, so that a message that is completed meanwhile does not count against its client.
        receiving = set(map(endpoint, self._receiving()))
        for descriptor, client, excess in self._connections():
            before = self._forgiven.get(client, 0)
            if excess < before:
                self._forgiven[client] = before = excess
            if excess - before >= _LEAST and client not in receiving:
                yield excess - before, descriptor, client

    def _connections(self) -> Iterator[tuple[int, Endpoint, int]]:
        """Yield descriptor and client of each connection, and its bytes beyond its messages."""
        found: list[tuple[int, Endpoint, int]] = []
        for place, descriptor in enumerate(own_sockets.descriptors(), 1):
            if (client := self._client(descriptor)) is not None:
                found.append((descriptor, client, own_sockets.received_bytes(descriptor)))
            if place % _AT_ONCE == 0:
                time.sleep(0)
        # After the bytes, as messages may be handed over meanwhile.
        claimed = {endpoint(peer): nbytes for peer, nbytes in list(self._claimed.items())}
        for descriptor, client, nbytes in found:
            yield descriptor, client, nbytes - claimed.get(client, 0)

    def _client(self, descriptor: int) -> Endpoint | None:
        """Return the client of a descriptor; None if it is not a connection of the ports."""
        for port in self.ports:
            found = own_sockets.peer(descriptor, port)
            if found is not None:
                return (plain_host(found[0]), found[1]) if found[0] else None
        return None

    def _forget_gone(self, known: Collection[Endpoint]) -> None:
        """Remove claims of clients that were also gone at the last look: a new one may not have been seen yet."""
        gone = {peer for peer in list(self._claimed) if endpoint(peer) not in known}
        for peer in gone & self._gone:
            self._claimed.pop(peer, None)
        self._gone = gone - self._gone
