"""A name server on 127.0.0.1: every name has the same addresses."""

import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any

_A, _IN = 1, 1
# An answer, authoritative, that recursion is available for.
_FLAGS = 0x8580
# The place of the question's name, as a pointer.
_NAME = 0xC00C


def _answer(query: bytes, addresses: Sequence[str]) -> bytes:
    end = query.index(0, 12) + 5
    (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
    found = addresses if kind == _A else ()
    records = [struct.pack("!HHHIH", _NAME, _A, _IN, 1, 4) + IPv4Address(address).packed for address in found]
    return query[:2] + struct.pack("!HHHHH", _FLAGS, 1, len(records), 0, 0) + query[12:end] + b"".join(records)


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[int]:
    """Answer queries for A with `addresses`, others with nothing, until the block ends; the value is its UDP port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, sock = self.request
            sock.sendto(_answer(query, addresses), self.client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            address: Any = server.server_address
            yield address[1]
        finally:
            server.shutdown()
            thread.join()
