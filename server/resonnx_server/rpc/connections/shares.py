"""Keeps connections of a port free for others where few addresses have most of them.

gRPC limits connections as a whole and does not tell of them, so the process's own sockets are looked at.
"""

import asyncio
import bisect
import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_server.access.caller import network_of
from resonnx_server.observe.connections import Connections
from resonnx_server.observe.line_limit import LineLimit
from resonnx_server.runtime.machine import own_sockets
from resonnx_server.runtime.machine.source_filter import MOST_NETWORKS, Network, drop_from

_log = logging.getLogger(__name__)

# An address gets no more connections if it has so many times what is free: alone, it gets 7/8.
_TIMES_FREE: Final = 7
# Until it has fewer than so many times: it would get one as soon as one is closed.
_TIMES_FREE_AGAIN: Final = 5
# Addresses that were faster lose connections if less than 1/16 is free, until 1/8 is.
_LEAST_FREE: Final = 16
_FREED: Final = 8
# An address that has no more than 1/8 of all loses none.
_UNTOUCHED: Final = 8
# Between looks, and more for each socket, of which a look takes about 10 µs: 1/20 of the event loop's time.
_INTERVAL_S: Final = 0.25
_INTERVAL_OF_SOCKET_S: Final = 0.0002
# Sockets that are looked at in one turn of the event loop: half a millisecond.
_AT_ONCE: Final = 64
_LINES_PER_S: Final = 1


def refused(held: Mapping[Network, int], most: int, before: Collection[Network] = ()) -> set[Network]:
    """Return the networks that get no more connections: the largest of those that have seven times what is free.

    Args:
        held: Connections by network.
        most: Connections that the port has at a time.
        before: Networks that got no more until now: they have to have less than five times what is free.
    """
    free = max(0, most - sum(held.values()))

    def has_most(network: Network) -> bool:
        times = _TIMES_FREE_AGAIN if network in before else _TIMES_FREE
        return held[network] >= max(1, times * free)

    return set(sorted(filter(has_most, held), key=held.__getitem__)[-MOST_NETWORKS:])


def surplus(held: Mapping[Network, int], most: int) -> dict[Network, int]:
    """Return how many connections networks have to lose so that others find some.

    None where a sixteenth of all is free. Otherwise those with the most lose them, down to equal numbers, until an
    eighth is free; none loses any below an eighth of all.

    Args:
        held: Connections by network.
        most: Connections that the port has at a time.
    """
    if sum(held.values()) <= most - most // _LEAST_FREE:
        return {}
    least, goal = max(1, most // _UNTOUCHED), most - most // _FREED
    levels = range(least, max(held.values()) + 1)
    fitting = bisect.bisect_right(levels, goal, key=lambda level: sum(min(n, level) for n in held.values()))
    level = least + max(0, fitting - 1)
    return {network: number - level for network, number in held.items() if number > level}


@dataclass
class _Found:
    """The sockets of the port: those that listen, and clients' by network, with host and port."""

    listening: list[int] = field(default_factory=list)
    connections: dict[Network, list[tuple[int, tuple[str, int]]]] = field(default_factory=dict)


class ConnectionShares:
    """The connections of a port by address (IPv6: by network of 64 bits). Event loop only; Linux only.

    Args:
        port: The port, which this process listens on.
        most: Connections that it has at a time.
        counts: Is told what was done.
    """

    def __init__(self, port: int, most: int, counts: Connections) -> None:
        self._port = port
        self._most = most
        self._counts = counts
        self._lines = LineLimit(_LINES_PER_S)
        self._refused = set[Network]()

    async def keep(self) -> None:
        """Look at the connections again and again."""
        while sys.platform == "linux":  # noqa: ASYNC110 - nothing tells of connections
            await asyncio.sleep(max(_INTERVAL_S, await self.look() * _INTERVAL_OF_SOCKET_S))

    async def look(self) -> int:
        """Refuse further connections of addresses that have too many, and close some where none is free.

        Returns:
            How many sockets were looked at.
        """
        descriptors = own_sockets.descriptors()
        # Usually few files are open, so that nothing needs to be counted.
        if len(descriptors) < self._most - self._most // _FREED and not self._refused:
            return 0
        found = await self._find(descriptors)
        held = {network: len(connections) for network, connections in found.connections.items()}
        if self._refuse(refused(held, self._most, self._refused), found.listening, held):
            for network, number in surplus(held, self._most).items():
                await self._close(found.connections[network], number)
        return len(descriptors)

    def _refuse(self, networks: set[Network], listening: list[int], held: Mapping[Network, int]) -> bool:
        """Set the networks that get no more connections; returns whether the system can do it."""
        if not networks and not self._refused:
            return True
        # Each time: a front that is started again listens anew.
        are_set = [drop_from(descriptor, networks) for descriptor in listening]
        if not all(are_set):
            if self._lines.admit() is not None:
                _log.warning("an address has most connections, and the system cannot refuse it more")
            return False
        new, self._refused = networks - self._refused, networks
        self._counts.refused = len(networks)
        if new and self._lines.admit() is not None:
            network = max(new, key=held.__getitem__)
            extra = {"address": str(network), "connections": held[network], "refused": len(networks)}
            _log.warning("an address has most connections, and gets no more", extra=extra)
        return True

    async def _find(self, descriptors: list[int]) -> _Found:
        found = _Found()
        for place, descriptor in enumerate(descriptors, 1):
            if (peer := own_sockets.peer(descriptor, self._port)) is not None:
                host, _ = peer
                if not host:
                    found.listening.append(descriptor)
                elif (network := network_of(host)) is not None:
                    found.connections.setdefault(network, []).append((descriptor, peer))
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def _close(self, connections: list[tuple[int, tuple[str, int]]], number: int) -> None:
        """Close those that have brought nothing for longest."""
        silent: list[tuple[int, int, tuple[str, int]]] = []
        for place, (descriptor, peer) in enumerate(connections, 1):
            silent.append((own_sockets.silent_ms(descriptor), descriptor, peer))
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
        silent.sort(reverse=True)
        for place, (_, descriptor, peer) in enumerate(silent[:number], 1):
            # gRPC may have closed it, and have another connection with this descriptor.
            if own_sockets.peer(descriptor, self._port) == peer and own_sockets.shut(descriptor):
                self._counts.closed += 1
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
