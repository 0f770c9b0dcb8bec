"""Ends the connections of a port from the server's side, after what is written.

gRPC answers calls that arrive while it shuts down with CANCELLED, which clients do not repeat. A client whose
connection ends sees UNAVAILABLE.
"""

import asyncio
import os
import socket
from collections.abc import Collection
from typing import Final

# Linux and macOS.
_DESCRIPTORS: Final = "/dev/fd"
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_LOOKS: Final = 50
_INTERVAL_S: Final = 0.01


async def hang_up(ports: Collection[int]) -> None:
    """End the connections of this process's ports, and wait for their clients to leave, for 0.5 s. No more can connect.

    The clients get what is written, and then the connection's end.
    """
    for _ in range(_LOOKS):
        # Each time, as gRPC may have accepted some meanwhile.
        if not end_sending(ports):
            return
        await asyncio.sleep(_INTERVAL_S)


def end_sending(ports: Collection[int]) -> int:
    """Stop listening on the ports, and send FIN over their connections, after what is written; return their number."""
    try:
        descriptors = os.listdir(_DESCRIPTORS)
    except OSError:
        return 0
    return sum(_end_sending(int(descriptor), ports) for descriptor in descriptors)


def _end_sending(descriptor: int, ports: Collection[int]) -> bool:
    # Not a copy: gRPC waits by epoll, which would go on telling of a descriptor that gRPC has closed.
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        # It is no socket, or has been closed.
        return False
    try:
        if connection.family in _FAMILIES and connection.getsockname()[1] in ports:
            listens = bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            connection.shutdown(socket.SHUT_RD if listens else socket.SHUT_WR)
            return not listens
    except OSError:
        # It is not connected any more.
        pass
    finally:
        connection.detach()
    return False
