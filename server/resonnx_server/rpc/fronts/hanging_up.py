"""Ends the connections of ports from the server's side, after what is written.

gRPC answers calls that arrive while it shuts down with CANCELLED, which clients do not repeat. A client whose
connection ends sees UNAVAILABLE.
"""

import asyncio
import socket
from collections.abc import Collection
from functools import partial
from typing import Final

from resonnx_server.runtime.machine import own_sockets

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
    end = partial(_end_sending, ports)
    return sum(own_sockets.ask(descriptor, end) is True for descriptor in own_sockets.descriptors())


def _end_sending(ports: Collection[int], borrowed: socket.socket) -> bool:
    own = borrowed.getsockname()
    # Addresses of other kinds of sockets are no tuples.
    if not isinstance(own, tuple) or own[1] not in ports:
        return False
    listens = bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    borrowed.shutdown(socket.SHUT_RD if listens else socket.SHUT_WR)
    return not listens
