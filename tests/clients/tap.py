"""A TCP port before a server's: bytes pass unchanged in both directions, and are kept."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

_PIECE = 1 << 16


@dataclass
class Recording:
    """The bytes of one connection."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


class Tap:
    """Passes connections on to a server; a context.

    Args:
        target: The server's `HOST:PORT`.

    Attributes:
        address: Where clients connect to.
        recordings: One for each connection, in their order.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.recordings: list[Recording] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            recording = Recording()
            self.recordings.append(recording)
            self._open += [client, server]
            for source, sink, kept in ((client, server, recording.sent), (server, client, recording.received)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_pass_on, args=(source, sink, kept))
                self._threads.append(thread)
                thread.start()


def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    """Pass bytes on until one side ends, and end the other as well."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            kept += piece
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
