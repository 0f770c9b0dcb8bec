"""The access log: a line for each request, written by a thread of its own.

It names callers by their keys or certificates, and never by addresses.
"""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from resonnx_server.errors import PermissionDenied, ServerError
from resonnx_server.observe.logs import json_line, output
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.trace_context import TRACE_CONTEXT

NAME: Final = "resonnx.access"
# Lines that wait for the thread, about a second of the fastest load; more are dropped and counted.
_MOST_WAITING: Final = 10_000
_LAST_S: Final = 1.0
# Lines are gathered for so long: waking the thread for each would cost more than the lines.
_GATHERED_S: Final = 0.05
# Characters that are written at once. Meanwhile the interpreter runs other threads.
_AT_ONCE: Final = 4096
_NAMED: Final = ("key:", "cert:")


class AccessLog:
    """Takes lines on any thread, without waiting.

    Args:
        most: Lines that may wait.

    Attributes:
        is_on: Whether lines are taken. Looked at for each request: nothing else is done if it is false.
    """

    def __init__(self, most: int = _MOST_WAITING) -> None:
        self.is_on = False
        self._most = most
        self._waiting: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def start(self, write: Callable[[str], object] = output.put_after_all) -> None:
        """Take lines from now on.

        Args:
            write: Writes whole lines; by default to stderr, whatever the log's level is.
        """
        self._waiting = SimpleQueue()
        self._closing.clear()
        self._thread = threading.Thread(target=self._write_all, args=(write,), name="access-log", daemon=True)
        self._thread.start()
        self.is_on = True

    def close(self) -> None:
        """Write what waits, within seconds, and take no more."""
        self.is_on = False
        if self._thread is not None:
            self._closing.set()
            self._waiting.put(None)
            self._thread.join(_LAST_S)
            self._thread = None

    def ended(self, caller: str, outcome: str, took_ns: int, **fields: Any) -> None:
        """Take the line of the current task's request, or of its call.

        Args:
            caller: The caller's name.
            outcome: "OK", or the reason of the failure.
            took_ns: Its time.
            **fields: Further fields.
        """
        identity, context = IDENTITY.get(), TRACE_CONTEXT.get()
        if identity is None:
            return
        identity.mark_told()
        fields = {"method": identity.method, **fields, "outcome": outcome, "ms": round(took_ns / 1e6, 3)}
        if caller.startswith(_NAMED):
            fields["caller"] = caller
        fields["request_id"] = identity.id
        if context is not None:
            fields["trace_id"] = context.trace_id
        self._put(fields)

    def call_ended(self, identity: Identity, caller: str, outcome: str) -> None:
        """Take the line of a call, unless its requests have lines."""
        if not identity.is_told:
            self.ended(caller, identity.reason or outcome, time.monotonic_ns() - identity.start_ns)

    def _put(self, fields: dict[str, Any]) -> None:
        if self._waiting.qsize() >= self._most:
            self._dropped += 1
            return
        if self._dropped:
            fields["dropped_before"], self._dropped = self._dropped, 0
        fields["created"] = time.time()
        self._waiting.put(fields)

    def _write_all(self, write: Callable[[str], object]) -> None:
        while (fields := self._waiting.get()) is not None:
            self._closing.wait(_GATHERED_S)
            lines, size = [_line(fields)], 0
            while (fields := self._next()) is not None:
                if (size := size + len(lines[-1])) + len(line := _line(fields)) > _AT_ONCE:
                    write("".join(lines))
                    lines, size = [], 0
                lines.append(line)
            write("".join(lines))
            if self._closing.is_set():
                return

    def _next(self) -> dict[str, Any] | None:
        """Return the next line that waits; None if there is none, or the log is closed."""
        try:
            return self._waiting.get_nowait()
        except Empty:
            return None


def _line(fields: dict[str, Any]) -> str:
    return json_line(fields.pop("created"), "info", NAME, "request", fields) + "\n"


def caller_of(error: ServerError) -> str:
    """Return the name of the caller that an error refuses; empty if it is not known."""
    return (error.caller or "") if isinstance(error, PermissionDenied) else ""


# As logging's state, it is the process's.
access_log: Final = AccessLog()
