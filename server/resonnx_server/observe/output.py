"""The log's output: takes lines without waiting, whoever reads stderr, or nobody.

Where stderr is a pipe that nobody reads, a write waits for ever, and with it the event loop and all requests.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

# As much as a pipe takes whole, and at once if it takes anything.
_AT_ONCE: Final = select.PIPE_BUF
# Of lines that wait.
_MOST_BYTES: Final = 1 << 20


class Output:
    """Writes lines to a descriptor at once, or if that does not take them, on a thread as soon as it does. Thread-safe.

    Lines keep their order. Those for which there is no room are dropped; a line says how many when there is room again.

    Args:
        tell_dropped: Returns the line that says how many were dropped.
        most_bytes: Of lines that may wait; a longer line may wait alone.
    """

    def __init__(self, tell_dropped: Callable[[int], str], most_bytes: int = _MOST_BYTES) -> None:
        self._tell_dropped = tell_dropped
        self._most_bytes = most_bytes
        self._descriptor: int | None = None
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._nbytes = 0
        self._dropped = 0
        self._poll = select.poll()

    @property
    def is_begun(self) -> bool:
        """Whether lines are taken."""
        return self._descriptor is not None

    def begin(self, descriptor: int) -> None:
        """Write to a descriptor, which stays the caller's, from now on. Must not be called again."""
        self._descriptor = descriptor
        self._poll.register(descriptor, select.POLLOUT)
        threading.Thread(target=self._write_waiting, args=(descriptor,), name="log", daemon=True).start()

    def put(self, text: str) -> None:
        """Take whole lines."""
        with self._changed:
            self._put(text.encode())

    def put_after_all(self, text: str) -> None:
        """Take whole lines, once none wait any more: for as long as the descriptor takes none."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._put(text.encode())

    def flush(self, timeout_s: float) -> None:
        """Return when no line waits, or after a time."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _put(self, lines: bytes) -> None:
        if self._descriptor is None:
            return
        if not self._waiting and len(lines) <= _AT_ONCE and self._poll.poll(0):
            rest = _write(self._descriptor, lines)
            if not rest:
                return
            # Of a disk that is full, or a terminal.
            lines = rest
        if self._waiting and self._nbytes + len(lines) > self._most_bytes:
            self._dropped += 1
            return
        if self._dropped:
            self._append(self._tell_dropped(self._dropped).encode())
            self._dropped = 0
        self._append(lines)
        self._changed.notify_all()

    def _append(self, lines: bytes) -> None:
        self._waiting.append(lines)
        self._nbytes += len(lines)

    def _write_waiting(self, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            # Nobody else writes while lines wait.
            poll.poll()
            with self._changed:
                first = self._waiting[0]
                rest = _write(descriptor, first[:_AT_ONCE]) + first[_AT_ONCE:]
                self._nbytes -= len(first) - len(rest)
                if rest:
                    self._waiting[0] = rest
                    continue
                self._waiting.popleft()
                if not self._waiting:
                    if self._dropped:
                        self._append(self._tell_dropped(self._dropped).encode())
                        self._dropped = 0
                    self._changed.notify_all()


def _write(descriptor: int, lines: bytes) -> bytes:
    """Write what is written without waiting; return the rest, empty if the descriptor takes nothing any more."""
    try:
        return lines[os.write(descriptor, lines) :]
    except BlockingIOError:
        return lines
    except OSError:
        # Its reader has gone, or a disk is full: there is nobody to tell.
        return b""
