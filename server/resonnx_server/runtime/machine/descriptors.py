"""How many files and connections this process may have open."""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OPEN: Final = Path("/proc/self/fd")
# Assumed where the system does not tell.
_USUALLY_OPEN: Final = 64
# Beyond this, systems spend memory on tables of descriptors.
_MOST: Final = 1 << 20
# Connections of gRPC where the limit allows it; idle ones take 15 kB of memory each.
_USUAL: Final = 8192
# Connections of HTTP where the limit allows it, each for one request at a time; and what is kept for files and devices
# that are opened while models load. Less of small limits.
_HTTP: Final = 1024
_FILES: Final = 64


class TooFewDescriptors(Exception):
    """The limit of open descriptors is too low; the message is one line for the user."""


@dataclass(frozen=True)
class Connections:
    """Most connections at a time of each kind."""

    grpc: int
    http: int


def allowed_connections(wanted: int | None = None, http: int | None = None) -> Connections:
    """Raise the soft limit of open descriptors to the hard one, and divide it: see divide_descriptors."""
    return divide_descriptors(_raise_limit(), _now_open(), wanted, http)


def divide_descriptors(limit: int, others: int, wanted: int | None = None, http: int | None = None) -> Connections:
    """Divide the limit of open descriptors between connections, and files that are opened later.

    Args:
        limit: The limit of open descriptors.
        others: Descriptors that are open now.
        wanted: Connections of gRPC; None for as many as fit, at most 8192.
        http: Connections of HTTP; None for 1024, or an eighth of the limit.

    Raises:
        TooFewDescriptors: The limit does not hold what is wanted, or a single connection.
    """
    http = min(_HTTP, limit // 8) if http is None else http
    kept = others + http + min(_FILES, limit // 4)
    if wanted is None:
        wanted, most = max(1, min(_USUAL, limit - kept)), "a single gRPC connection"
    else:
        most = f"{wanted} gRPC connections (max_connections)"
    if wanted > limit - kept:
        lack = f"{most} and {kept} other descriptors are more than the limit of open files, {limit}"
        raise TooFewDescriptors(f"{lack}: raise it (ulimit -n, LimitNOFILE=)")
    return Connections(wanted, http)


def _raise_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Not permitted in some sandboxes.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MOST if soft == resource.RLIM_INFINITY else soft


def _now_open() -> int:
    """Return the number of open descriptors."""
    with suppress(OSError):
        return len(os.listdir(_OPEN))
    return _USUALLY_OPEN
