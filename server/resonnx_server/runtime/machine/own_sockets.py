"""Reads and ends the connections that libraries opened in this process."""

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from typing import Final, TypeVar

Answer = TypeVar("Answer")

# Linux and macOS.
_DESCRIPTORS: Final = "/dev/fd"
# Places in Linux's tcp_info: milliseconds since the last data were received, bytes written and not sent, segments with
# data sent, each a number of 32 bits; bytes received, a number of 64 bits.
_LAST_RECEIVED: Final = slice(52, 56)
_RECEIVED: Final = slice(128, 136)
_NOT_SENT: Final = slice(144, 148)
_SENT: Final = slice(156, 160)


def descriptors() -> list[int]:
    """Return the open descriptors, and perhaps one that is closed again; none if the system does not list them."""
    try:
        return [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:
        return []


def ask(descriptor: int, read: Callable[[socket.socket], Answer | None]) -> Answer | None:
    """Return what `read` returns for the socket of a descriptor; None if it is none, is closed, or `read` fails.

    The socket is not a copy: a copy would keep a connection open that its owner closes.
    """
    try:
        # The family with the longest addresses: those of others are read as well. Not given, Python would ask for it.
        borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return None
    try:
        return read(borrowed)
    except OSError:
        return None
    finally:
        borrowed.detach()


def peer(descriptor: int, port: int) -> tuple[str, int] | None:
    """Return the client's host and port of a connection that was accepted on `port`; None for other descriptors.

    A socket that listens on `port` has the host "".
    """

    def read(borrowed: socket.socket) -> tuple[str, int] | None:
        own = borrowed.getsockname()
        # Addresses of other kinds of sockets are no tuples.
        if not isinstance(own, tuple) or own[1] != port:
            return None
        if borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "", 0
        found = borrowed.getpeername()
        return found[0], found[1]

    return ask(descriptor, read)


def silent_ms(descriptor: int) -> int:
    """Return the time since a connection brought data, in ms; 0 where the system does not tell."""
    return _told(descriptor, _LAST_RECEIVED)


def received_bytes(descriptor: int) -> int:
    """Return all bytes that a connection has brought; 0 where the system does not tell."""
    return _told(descriptor, _RECEIVED)


def _told(descriptor: int, place: slice) -> int:
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    info = ask(descriptor, lambda borrowed: borrowed.getsockopt(socket.IPPROTO_TCP, option, place.stop))
    return 0 if info is None else int.from_bytes(info[place], sys.byteorder)


def has_sent_all(connection: socket.socket) -> bool:
    """Whether something was written to a connection, and all of it is sent; False where the system does not tell."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return False
    info = connection.getsockopt(socket.IPPROTO_TCP, option, _SENT.stop)
    return len(info) == _SENT.stop and any(info[_SENT]) and not any(info[_NOT_SENT])


def shut(descriptor: int) -> bool:
    """End a connection, whose owner closes it then; returns whether there was one."""

    def end(borrowed: socket.socket) -> bool:
        borrowed.shutdown(socket.SHUT_RDWR)
        return True

    return ask(descriptor, end) is not None


def cut(descriptor: int) -> bool:
    """Reset a connection and discard its unread and unsent data; returns whether there was one.

    After `shut`, its owner still gets data that arrives. Connecting a socket to no address (AF_UNSPEC) resets its
    connection on Linux; elsewhere, this is `shut`.
    """
    if sys.platform != "linux":
        return shut(descriptor)

    def end(borrowed: socket.socket) -> bool:
        # Python cannot express this address: the family alone, AF_UNSPEC, which is 0.
        if ctypes.CDLL(None, use_errno=True).connect(descriptor, ctypes.create_string_buffer(16), 16):
            borrowed.shutdown(socket.SHUT_RDWR)
        return True

    return ask(descriptor, end) is not None
