"""Cancels one model's load inside ONNX Runtime from another thread: the opening of sessions, and their runs.

A run stops between two nodes of its graph, the opening of a session between two passes of the optimiser. A single
kernel, or a provider's compiler, cannot be interrupted.
"""

import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Final, Self

import onnxruntime as ort

from resonnx_server.errors import ModelRefused

CANCELLED: Final = "the load was cancelled"


class Cancellation:
    """Covers all sessions that a thread opens within `with cancellation:`."""

    _current: ContextVar["Cancellation | None"] = ContextVar("cancellation", default=None)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._covered: list[Callable[[], object]] = []
        self._entered: Token[Cancellation | None] | None = None
        self.is_cancelled = False

    def __enter__(self) -> Self:
        self._entered = self._current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._entered is not None
        self._current.reset(self._entered)

    @classmethod
    def cover(cls, opening: ort.SessionOptions, end_runs: Callable[[], object]) -> None:
        """Register a session's opening and its runs with the thread's cancellation, if it is in one.

        Args:
            opening: The session's options.
            end_runs: Ends its runs, current and later ones, with an error.

        Raises:
            ModelRefused: It was cancelled already.
        """
        cls.on_cancel(lambda: opening.set_load_cancellation_flag(True))
        cls.on_cancel(end_runs)

    @classmethod
    def on_cancel(cls, end: Callable[[], object]) -> None:
        """Register what ends a part of the thread's load, if it is in one.

        Raises:
            ModelRefused: It was cancelled already.
        """
        if (current := cls._current.get()) is None:
            return
        with current._lock:
            if current.is_cancelled:
                raise ModelRefused(CANCELLED)
            current._covered.append(end)

    @classmethod
    def check(cls) -> None:
        """Raise ModelRefused if this thread's load was cancelled, which explains any other failure."""
        if (current := cls._current.get()) is not None and current.is_cancelled:
            raise ModelRefused(CANCELLED)

    def cancel(self) -> None:
        """Stop everything that is registered, and refuse more. Thread-safe; may be called more than once."""
        with self._lock:
            self.is_cancelled = True
            for end in self._covered:
                end()
