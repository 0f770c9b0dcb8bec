"""Messages of one stream that wait in one direction."""

from collections import deque
from typing import Final

# Reading ahead, and accepting answers, stops at either.
MAX_MESSAGES: Final = 16
_MAX_BYTES: Final = 1 << 20


class MessageBuffer:
    """A queue of serialized messages that is full at 16 messages or 1 MiB."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    def push(self, message: bytes) -> None:
        """Append a message, even to a full buffer."""
        self._messages.append(message)
        self._bytes += len(message)

    def pop(self) -> bytes:
        """Remove and return the oldest message."""
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_room(self) -> bool:
        """Whether the buffer is not full."""
        return len(self._messages) < MAX_MESSAGES and self._bytes < _MAX_BYTES
