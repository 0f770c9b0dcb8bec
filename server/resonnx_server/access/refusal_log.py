"""The log of refused calls."""

import logging
import time
from collections.abc import Callable
from typing import Final

from resonnx_server.access.caller import address_name
from resonnx_server.errors import PermissionDenied, ServerError
from resonnx_server.observe.line_limit import LineLimit

_log = logging.getLogger(__name__)

_LINES_PER_S: Final = 1


class RefusalLog:
    """Logs refused calls, at most one line a second. Thread-safe.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._lines = LineLimit(_LINES_PER_S, clock)

    def write(self, error: ServerError, method: str, peer: str) -> None:
        """Log the refusal of a caller's call of a method, or count it for the next line.

        Args:
            error: The reason.
            method: The method or page.
            peer: The client's address, as gRPC writes it.
        """
        if (unlogged := self._lines.admit()) is None:
            return
        address = address_name(peer)
        caller = error.caller if isinstance(error, PermissionDenied) else None
        _log.warning(
            "refused a call",
            extra={
                "reason": error.reason,
                "method": method,
                "caller": caller or address,
                "address": address,
                "refused_since_last_line": unlogged,
            },
        )
