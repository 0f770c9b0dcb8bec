"""gRPC calls in the recorded bytes of a connection of HTTP/2."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field

from hpack import Decoder

from .tap import Recording

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _CONTINUATION = 0x0, 0x1, 0x9
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20


@dataclass
class Side:
    """What one side sent on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)

    def messages(self) -> Iterator[bytes]:
        """Return its messages, unpacked; one that is incomplete is left out."""
        at = 0
        while len(self.data) >= at + 5:
            size = int.from_bytes(self.data[at + 1 : at + 5], "big")
            content = bytes(self.data[at + 5 : at + 5 + size])
            if len(content) < size:
                return
            yield gzip.decompress(content) if self.data[at] else content
            at += 5 + size


@dataclass
class Call:
    """A gRPC call."""

    asked: Side
    answered: Side

    @property
    def path(self) -> str:
        """`/SERVICE/METHOD`."""
        return self.asked.headers[":path"]

    @property
    def status(self) -> int | None:
        """The number of its status; None if the server sent none: the client left."""
        status = self.answered.headers.get("grpc-status")
        return None if status is None else int(status)

    @property
    def has_answer(self) -> bool:
        """Whether it ended well, or brought a message before its client left."""
        return self.status == 0 or (self.status is None and bool(self.answered.data))


def calls(recording: Recording) -> Iterator[Call]:
    """Return the calls of a connection."""
    asked = _sides(recording.sent[len(PREFACE) :])
    answered = _sides(recording.received)
    for stream, side in asked.items():
        yield Call(side, answered.get(stream, Side()))


def _sides(content: bytes | bytearray) -> dict[int, Side]:
    sides: dict[int, Side] = {}
    decoder, block = Decoder(max_header_list_size=1 << 20), bytearray()
    decoder.max_allowed_table_size = 1 << 24
    for kind, flags, stream, payload in _frames(content):
        if kind in (_DATA, _HEADERS) and flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == _HEADERS and flags & _PRIORITY:
            payload = payload[5:]
        if kind == _DATA:
            sides[stream].data += payload
        elif kind in (_HEADERS, _CONTINUATION):
            block += payload
            if flags & _END_HEADERS:
                # Values of `…-bin` may be any bytes.
                headers = decoder.decode(bytes(block), raw=True)
                named = {name.decode(): value.decode("latin-1") for name, value in headers}
                sides.setdefault(stream, Side()).headers.update(named)
                block.clear()
    return sides


def _frames(content: bytes | bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Return kind, flags, stream and payload of each complete frame."""
    at = 0
    while len(content) >= at + 9:
        size = int.from_bytes(content[at : at + 3], "big")
        if len(content) < at + 9 + size:
            return
        stream = int.from_bytes(content[at + 5 : at + 9], "big") & 0x7FFF_FFFF
        yield content[at + 3], content[at + 4], stream, bytes(content[at + 9 : at + 9 + size])
        at += 9 + size
