"""A request's deadline in the header Grpc-Timeout, as gateways from HTTP to gRPC take it."""

import re
import time
from typing import Final

from resonnx_server.errors import InvalidInput

HEADER: Final = "Grpc-Timeout"
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_NS: Final = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}


def deadline_ns(header: str | None) -> int | None:
    """Return the deadline by a header's value, monotonic ns; None if there is none.

    Raises:
        InvalidInput: It is not at most 8 digits and a unit.
    """
    if header is None:
        return None
    found = _TIMEOUT.fullmatch(header.strip())
    if found is None:
        raise InvalidInput(
            HEADER, f"{header[:32]!r} is not a number of at most 8 digits and one of H, M, S, m (ms), u (µs), n (ns)"
        )
    return time.monotonic_ns() + int(found[1]) * _NS[found[2]]
