"""Which of several servers a call goes to, and over which connection."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from resonnx._transport.channel import targets

# A server that was not reached is left alone for so long, and twice as long after each further failure.
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 30.0
# Calls at a time that share a connection, and most connections to a server.
_CALLS_PER_CONNECTION: Final = 8
_MOST_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Link:
    """A connection: the index of its server in `Links.targets`, and its number among those to this server."""

    server: int
    connection: int


class Links:
    """Takes servers in turn, but for those that were not reached a moment ago. Threads may share it.

    Args:
        server: As `server_address` returns it.
        clock: Returns monotonic seconds.

    Attributes:
        targets: The servers' addresses for gRPC.
    """

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.targets = targets(server)
        self._clock = clock
        self._lock = threading.Lock()
        # Of clients that make one call each, not all ask the same server.
        self._turn = random.randrange(len(self.targets))
        self._connections = 1
        # By server: until when it rests, and for how long; 0 while it is reached.
        self._rests_until = [0.0] * len(self.targets)
        self._rest_s = [0.0] * len(self.targets)

    def widen(self, concurrency: int) -> None:
        """Use more connections from now on, for so many calls at a time."""
        needed = -(-concurrency // _CALLS_PER_CONNECTION)
        with self._lock:
            self._connections = max(self._connections, min(needed, _MOST_CONNECTIONS))

    def next(self) -> Link:
        """Return the connection for a call; `record` must be told how it ended."""
        with self._lock:
            self._turn += 1
            count = len(self.targets)
            server = self._turn % count
            if any(self._rest_s):
                server = self._rested(server)
            return Link(server, self._turn // count % self._connections)

    def record(self, link: Link, error: grpc.RpcError | None) -> None:
        """Count the end of a call: its error, or None for an answer."""
        reached = error is None or error.code() is not grpc.StatusCode.UNAVAILABLE
        if reached and not self._rest_s[link.server]:
            return
        with self._lock:
            if reached:
                self._rest_s[link.server] = self._rests_until[link.server] = 0.0
            elif self._clock() >= self._rests_until[link.server] or not self._rest_s[link.server]:
                self._begin_rest(link.server)

    def _rested(self, first: int) -> int:
        """Return the first server from `first` on that does not rest; where all do, `first`, so that each is tried."""
        now, count = self._clock(), len(self.targets)
        order = ((first + offset) % count for offset in range(count))
        server = next((it for it in order if self._rests_until[it] <= now), None)
        if server is None:
            return first
        if self._rest_s[server]:
            # One call tries it again; the others go elsewhere meanwhile.
            self._begin_rest(server)
        return server

    def _begin_rest(self, server: int) -> None:
        self._rest_s[server] = min(max(self._rest_s[server] * 2, _FIRST_REST_S), _LONGEST_REST_S)
        self._rests_until[server] = self._clock() + self._rest_s[server]
