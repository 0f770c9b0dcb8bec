"""Bounds the bytes of requests in flight, so that a burst is refused before it fills the memory. Event loop only."""

from typing import Final

from resonnx_server.errors import Overloaded

_RETRY_AFTER_MS: Final = 100


class MemoryBudget:
    """A budget of bytes.

    Args:
        max_bytes: Request bytes that may be in flight; a single larger request is let through when nothing else is.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0

    def hold(self, size: int) -> "Held":
        """Count `size` bytes as in flight until the block ends: `with admission.hold(size): …`.

        Raises:
            Overloaded: The budget is spent.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                f"requests in flight hold {self._bytes} bytes and may hold {self._max_bytes}", _RETRY_AFTER_MS
            )
        self._bytes += size
        return Held(self, size)

    def give_back(self, size: int) -> None:
        """Bytes of a request are no longer in flight."""
        self._bytes -= size


class Held:
    """A request's part of the budget; a plain class, as every request makes one."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: MemoryBudget, size: int) -> None:
        self._admission = admission
        self._size = size

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._admission.give_back(self._size)
