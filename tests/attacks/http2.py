"""A client of HTTP/2 that sends what gRPC's clients do not: messages in part, and no requests for more answers."""

import contextlib
import socket
import struct
import threading
from collections import defaultdict
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_FRAME: Final = 16_384
_WINDOW_BYTES: Final = 65_535
_INITIAL_WINDOW: Final = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _call_headers(path: str, *more: tuple[bytes, bytes]) -> bytes:
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"))
    headers = (*fields, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more)
    return b"".join(_field(*field) for field in headers)


class Connection:
    """A connection that sends frames as fast as the server permits, and discards what it gets.

    Attributes:
        ended: Streams that the server has ended.
        is_sent_away: The server takes no more calls over it.
    """

    def __init__(self, address: str, source: str = "127.0.0.1", *, acknowledges: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), source_address=(source, 0))
        self._next = 1
        self._window = _WINDOW_BYTES
        self._initial = _WINDOW_BYTES
        self._windows: dict[int, int] = defaultdict(int)
        self.ended: set[int] = set()
        self.is_sent_away = False
        self._closed, self._acknowledges = False, acknowledges
        self._changed = threading.Condition()
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0))
        threading.Thread(target=self._read, daemon=True).start()

    def open(self, path: str, *more: tuple[bytes, bytes]) -> int:
        """Begin a call with more headers, and return its stream."""
        stream, self._next = self._next, self._next + 2
        self._send(_frame(_HEADERS, 4, stream, _call_headers(path, *more)))
        return stream

    def begin_headers(self) -> None:
        """Begin the first call's headers, with which `send_headers` goes on; nothing else may be sent between."""
        self._send(_frame(_HEADERS, 0, 1, _call_headers("/inference.GRPCInferenceService/ModelInfer")))

    def send_headers(self, frames: int) -> bool:
        """Send so many parts of 100 bytes of headers; returns whether the connection is open."""
        part = _frame(_CONTINUATION, 0, 1, _field(b"a", b"b") * 20)
        return self._send(part * frames) and not self._closed

    def reset(self, calls: int) -> bool:
        """Begin so many calls, and reset each at once; returns whether the connection is open."""
        headers = _call_headers("/inference.GRPCInferenceService/ModelInfer")
        streams = range(self._next, self._next + 2 * calls, 2)
        self._next += 2 * calls
        cancel = bytes(3) + b"\x08"
        frames = b"".join(_frame(_HEADERS, 4, each, headers) + _frame(_RESET, 0, each, cancel) for each in streams)
        return self._send(frames) and not self._closed

    def send(self, stream: int, declared: int, sent: bytes, patience_s: float = 20.0) -> bool:
        """Send the first bytes of a message of `declared` bytes.

        Returns:
            False if the server ends the call before, or permits nothing more for `patience_s`.
        """
        left = memoryview(b"\0" + struct.pack(">I", declared) + sent)
        while len(left):
            with self._changed:
                while (room := min(self._window, self._initial + self._windows[stream], _FRAME)) <= 0:
                    if stream in self.ended or self._closed or not self._changed.wait(patience_s):
                        return False
                part, left = left[:room], left[room:]
                self._window -= len(part)
                self._windows[stream] -= len(part)
            if not self._send(_frame(_DATA, 0, stream, bytes(part))):
                return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        with contextlib.suppress(OSError):
            # The thread that reads holds the socket, which `close` alone would not close.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, content: bytes) -> bool:
        try:
            self._socket.sendall(content)
        except OSError:
            return False
        return True

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as received:
                while len(head := received.read(9)) == 9:
                    length = int.from_bytes(head[:3], "big")
                    self._take(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, received.read(length))
        except (OSError, ValueError):
            pass
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        with self._changed:
            if kind == _WINDOW:
                more = int.from_bytes(payload, "big") & 0x7FFFFFFF
                if stream:
                    self._windows[stream] += more
                else:
                    self._window += more
            elif kind == _SETTINGS and not flags & 1:
                for start in range(0, len(payload), 6):
                    number, value = struct.unpack(">HI", payload[start : start + 6])
                    if number == _INITIAL_WINDOW:
                        self._initial = value
                if self._acknowledges:
                    self._send(_frame(_SETTINGS, 1, 0))
            elif kind == _PING and not flags & 1:
                self._send(_frame(_PING, 1, 0, payload))
            elif kind == _GO_AWAY:
                self.is_sent_away = True
            elif kind in (_RESET, _HEADERS) and (kind == _RESET or flags & 1):
                self.ended.add(stream)
            self._changed.notify_all()
