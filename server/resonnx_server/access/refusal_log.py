"""The log of refused calls."""

import logging
import threading
import time
from typing import Final

from resonnx_server.access.caller import address_name
from resonnx_server.errors import PermissionDenied, ServerError

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0


class RefusalLog:
    """Logs refused calls, at most one line a second. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0
        self._unlogged = 0

    def write(self, error: ServerError, method: str, peer: str) -> None:
        """Log the refusal of a caller's call of a method, or count it for the next line.

        Args:
            error: The reason.
            method: The method or page.
            peer: The client's address, as gRPC writes it.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self._unlogged += 1
                return
            self._next = now + _INTERVAL_S
            unlogged, self._unlogged = self._unlogged, 0
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
