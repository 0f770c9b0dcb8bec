"""Requests in the recorded bytes of a connection of HTTP/1.1."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from .tap import Recording

_END = b"\r\n\r\n"


@dataclass
class Message:
    """A request or an answer."""

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def unpacked(self) -> bytes:
        """Its body without a Content-Encoding."""
        packing = self.headers.get("content-encoding", "identity")
        if packing == "gzip":
            return gzip.decompress(self.body)
        return zlib.decompress(self.body) if packing == "deflate" else self.body


@dataclass
class Request:
    """A request and the status of its answer."""

    message: Message
    status: int

    @property
    def method(self) -> str:
        """GET, POST, …."""
        return self.message.start.split()[0]

    @property
    def target(self) -> str:
        """Path and query."""
        return self.message.start.split()[1]


def requests(recording: Recording) -> Iterator[Request]:
    """Return the requests of a connection that were answered."""
    answers = (answer for answer in _messages(recording.received) if _status(answer) >= 200)
    for message, answer in zip(_messages(recording.sent), answers, strict=False):
        yield Request(message, _status(answer))


def _status(answer: Message) -> int:
    return int(answer.start.split()[1])


def _messages(content: bytes | bytearray) -> Iterator[Message]:
    at = 0
    while (end := content.find(_END, at)) >= 0:
        start, *lines = content[at:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        at = end + len(_END)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body, at = _chunks(content, at)
        else:
            size = int(headers.get("content-length", "0"))
            body, at = bytes(content[at : at + size]), at + size
        yield Message(start, headers, body)


def _chunks(content: bytes | bytearray, at: int) -> tuple[bytes, int]:
    """Return a body in chunks, and where it ends; all that there is, if its sender left before."""
    body = b""
    while (line_end := content.find(b"\r\n", at)) >= 0:
        size = int(content[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            return body, at + 2
        body += content[at : at + size]
        at += size + 2
    return body, len(content)
