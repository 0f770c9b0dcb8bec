"""Bounds the bytes of requests in flight, so that a burst is refused before it fills the memory. Event loop only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from resonnx_server.errors import Overloaded

_RETRY_AFTER_MS: Final = 100


class Admission:
    """A budget of bytes.

    Args:
        max_bytes: Request bytes that may be in flight; a single larger request is let through when nothing else is.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count `size` bytes as in flight while the block runs.

        Raises:
            Overloaded: The budget is spent.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                f"requests in flight hold {self._bytes} bytes and may hold {self._max_bytes}", _RETRY_AFTER_MS
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
