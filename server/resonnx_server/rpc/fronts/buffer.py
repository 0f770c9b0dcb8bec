"""Messages of one stream that wait in one direction."""

from collections import deque
from typing import Final

from resonnx_server.memory.budget import Charge

# Reading ahead, and accepting answers, stops at either.
MAX_MESSAGES: Final = 16
_MAX_BYTES: Final = 1 << 20
# What a call is charged while its request is awaited, and for small messages. It takes 16 kB, and the caller may send
# 64 kB before more is asked for; what comes then is seen by the watch of the process's memory (memory/watch.py).
CALL_BYTES: Final = 1 << 15


class MessageBuffer:
    """A queue of serialized messages that is full at 16 messages or 1 MiB, and the message that is being sent.

    Args:
        charge: Holds their bytes, if they are more than a call is charged anyway.
        are_answers: They answer accepted requests; otherwise they were received, and count even beyond the budget.
    """

    __slots__ = ("_are_answers", "_bytes", "_charge", "_messages", "_sending")

    def __init__(self, charge: Charge, *, are_answers: bool) -> None:
        self._charge = charge
        self._are_answers = are_answers
        self._messages: deque[bytes] = deque()
        self._bytes = self._sending = 0

    def push(self, message: bytes) -> None:
        """Append a message, even to a full buffer. Raises MemorySpent for an answer that has no room in the budget."""
        self._hold(self._bytes + len(message), self._sending)
        self._messages.append(message)

    def pop(self) -> bytes:
        """Remove and return the oldest message."""
        message = self._messages.popleft()
        self._hold(self._bytes - len(message), self._sending)
        return message

    def send(self, message: bytes) -> None:
        """Hold a message until the next is sent, or `sent`. Raises MemorySpent for one that has no room."""
        self._hold(self._bytes, len(message))

    def pop_to_send(self) -> bytes:
        """Remove and return the oldest message, and hold it as `send` does."""
        message = self._messages.popleft()
        self._hold(self._bytes - len(message), len(message))
        return message

    def sent(self) -> None:
        """Hold no message that is being sent."""
        self._hold(self._bytes, 0)

    def clear(self) -> None:
        """Remove all messages; the one that is being sent is held."""
        self._messages.clear()
        self._hold(0, self._sending)

    def _hold(self, waiting: int, sending: int) -> None:
        held = waiting + sending
        wanted = held if held > CALL_BYTES else 0
        if wanted != self._charge.nbytes:
            self._charge.resize(wanted, answer=self._are_answers, held=not self._are_answers)
        self._bytes, self._sending = waiting, sending

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_room(self) -> bool:
        """Whether the buffer is not full."""
        return len(self._messages) < MAX_MESSAGES and self._bytes < _MAX_BYTES
