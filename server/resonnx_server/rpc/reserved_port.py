"""A port that is bound and refuses connections until the server listens on it."""

import asyncio
import socket
from types import TracebackType
from typing import Self


class ReservedPort:
    """A bound port without a listener: no other process can take it, and a port in use is reported at once.

    Servers that set SO_REUSEADDR can listen on it, as gRPC does, because this socket does not listen.

    Attributes:
        port: The port.
    """

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound
        self.port = int(bound.getsockname()[1])

    @classmethod
    async def of(cls, host: str, port: int) -> Self:
        """Reserve a port of an address; 0 for a free one. Raises OSError if it cannot be had."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # As gRPC does.
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return cls(bound)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        self._bound.close()
