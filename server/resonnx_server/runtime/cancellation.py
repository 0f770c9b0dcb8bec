"""Ends what ONNX Runtime does for one model's load, from another thread: sessions that are opened, and their runs.

A run ends between two nodes of its graph, a loop's body included; opening a session, between two passes of its
optimisation. A single kernel, or another provider's compiler, ends when it ends.
"""

import threading
from contextvars import ContextVar, Token
from typing import Final, Protocol, Self

import onnxruntime as ort

from resonnx_server.errors import ModelRefused

# Of ONNX Runtime's levels: nothing but what ends the process.
_FATAL: Final = 4
_ENDED: Final = "the load was ended"


class Runs(Protocol):
    """Options of a session's runs, as ort.RunOptions has them."""

    log_severity_level: int
    terminate: bool


class Cancellation:
    """Covers all sessions that are opened within `with cancellation:`, on the thread that entered it."""

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
        """Have one session's opening, and its runs, ended with whatever they belong to, if anything.

        Raises:
            ModelRefused: That has ended already.
        """
        # What ends a run is an exception that says why; ONNX Runtime would print it as well.
        runs.log_severity_level = _FATAL
        if (current := cls._current.get()) is not None:
            current._add(opening, runs)

    @classmethod
    def check(cls) -> None:
        """Raise ModelRefused if what this thread does for a load has been ended: what failed, failed for that."""
        if (current := cls._current.get()) is not None and current.is_cancelled:
            raise ModelRefused(_ENDED)

    def _add(self, opening: ort.SessionOptions, runs: Runs) -> None:
        with self._lock:
            if self.is_cancelled:
                raise ModelRefused(_ENDED)
            self._covered.append((opening, runs))

    def cancel(self) -> None:
        """End what is under way and let nothing more begin; from any thread, and more than once."""
        with self._lock:
            self.is_cancelled = True
            for opening, runs in self._covered:
                opening.set_load_cancellation_flag(True)
                runs.terminate = True
