# Made by client/generate from ../aio/connection.py: edit that one.
"""The life of the blocking client."""

from types import TracebackType
from typing import Self

from resonnx._clients.blocking.calls import Calls
from resonnx._transport.access import Access, Tls
from resonnx._transport.channel import server_address


class Connection:
    """A connection to a server; its subclasses document the arguments."""

    def __init__(
        self,
        server: str | None = None,
        *,
        timeout_s: float | None = 10.0,
        key: str | None = None,
        tls: Tls | bool | None = None,
        health_checks: bool = True,
    ) -> None:
        self._connect(server_address(server), Access.of(key, tls, health_checks=health_checks), timeout_s)

    @classmethod
    def of(cls, server: str, access: Access, timeout_s: float | None) -> Self:
        """Return a client of a server by its address."""
        client = cls.__new__(cls)
        client._connect(server, access, timeout_s)
        return client

    def _connect(self, server: str, access: Access, timeout_s: float | None) -> None:
        self.server = server
        self._calls = Calls(server, access, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. Running calls of other threads or tasks raise Cancelled, later calls ClientClosed."""
        self._calls.close()
