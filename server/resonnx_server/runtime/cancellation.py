"""Cancels one model's load inside ONNX Runtime from another thread: the opening of sessions, and their runs.

A run stops between two nodes of its graph, the opening of a session between two passes of the optimiser. A single
kernel, or a provider's compiler, cannot be interrupted.
"""

import threading
from contextvars import ContextVar, Token
from typing import Final, Protocol, Self

import onnxruntime as ort

from resonnx_server.errors import ModelRefused

# ONNX Runtime's log level for errors that end the process.
_FATAL: Final = 4
CANCELLED: Final = "the load was cancelled"


class Runs(Protocol):
    """The attributes of ort.RunOptions that a cancellation sets."""

    log_severity_level: int
    terminate: bool


class Cancellation:
    """Covers all sessions that a thread opens within `with cancellation:`."""

    _current: ContextVar["Cancellation | None"] = ContextVar("cancellation", default=None)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._covered: list[tuple[ort.SessionOptions, Runs]] = []
        self._entered: Token[Cancellation | None] | None = None
        self.is_cancelled = False

    def __enter__(self) -> Self:
        self._entered = self._current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._entered is not None
        self._current.reset(self._entered)

    @classmethod
    def cover(cls, opening: ort.SessionOptions, runs: Runs) -> None:
        """Register a session's opening and its runs with the thread's cancellation, if it is in one.

        Raises:
            ModelRefused: It was cancelled already.
        """
        # The exception of a cancelled run has the reason; ONNX Runtime would print it as well.
        runs.log_severity_level = _FATAL
        if (current := cls._current.get()) is not None:
            current._add(opening, runs)

    @classmethod
    def check(cls) -> None:
        """Raise ModelRefused if this thread's load was cancelled, which explains any other failure."""
        if (current := cls._current.get()) is not None and current.is_cancelled:
            raise ModelRefused(CANCELLED)

    def _add(self, opening: ort.SessionOptions, runs: Runs) -> None:
        with self._lock:
            if self.is_cancelled:
                raise ModelRefused(CANCELLED)
            self._covered.append((opening, runs))

    def cancel(self) -> None:
        """Stop everything that is registered, and refuse more. Thread-safe; may be called more than once."""
        with self._lock:
            self.is_cancelled = True
            for opening, runs in self._covered:
                opening.set_load_cancellation_flag(True)
                runs.terminate = True
