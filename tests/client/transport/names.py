"""A DNS server with one name, for tests."""

import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NAME = "servers.test"
_A = 1
_ANSWER = 0x8400
_NO_SUCH_NAME = 3
# Name, type, class, seconds to live, length of an address.
_RECORD = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04"


class Names:
    """Answers queries over UDP.

    Attributes:
        port: Its port on 127.0.0.1.
        addresses: The IPv4 addresses of the name; they may be changed.
        asked: How often they were asked for.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.addresses = list(addresses)
        self.asked = 0

    def target(self, port: int) -> str:
        """Return a client's address of all servers of the name that have a port."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"

    def serve(self) -> None:
        """Answer until an empty datagram arrives."""
        with self._socket:
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        # The question: labels with their lengths, an empty one, type and class.
        end = query.index(b"\0", 12) + 1
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        kind, records, status = int.from_bytes(query[end : end + 2], "big"), b"", 0
        if ".".join(labels) != NAME:
            status = _NO_SUCH_NAME
        elif kind == _A:
            self.asked += 1
            records = b"".join(_RECORD + ipaddress.IPv4Address(each).packed for each in self.addresses)
        count = len(records) // (len(_RECORD) + 4)
        head = query[:2] + (_ANSWER | status).to_bytes(2, "big")
        return head + b"".join(number.to_bytes(2, "big") for number in (1, count, 0, 0)) + query[12 : end + 4] + records


@contextmanager
def named(addresses: Sequence[str]) -> Iterator[Names]:
    """Serve names."""
    names = Names(addresses)
    thread = threading.Thread(target=names.serve)
    thread.start()
    try:
        yield names
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", ("127.0.0.1", names.port))
        thread.join()
