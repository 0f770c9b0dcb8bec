"""Ends the runs of one thread inside ONNX Runtime from another thread, while other threads' runs of the session go on.

A run ends between two nodes of its graph, loops included. A kernel that does not end cannot be interrupted.
"""

import threading
from collections.abc import Callable

import onnxruntime as ort

from resonnx_server.runtime.c_api import FATAL_ONLY


class Interruption:
    """The runs of one thread.

    Attributes:
        options: ONNX Runtime's options of the thread's runs.
        is_over: The thread's runs were ended: current and later ones raise, until `renew`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end_also: Callable[[], object] | None = None
        self.renew()

    def renew(self) -> None:
        """Permit runs again; on the thread itself, between two runs."""
        self.is_over = False
        self.options = _run_options()

    def enter(self) -> None:
        """Make it the calling thread's."""
        _mine.runs = self

    def end(self) -> None:
        """End the thread's runs. Thread-safe."""
        with self._lock:
            self.is_over = True
            self.options.terminate = True
            if self._end_also is not None:
                self._end_also()

    def end_by(self, end: Callable[[], object] | None) -> None:
        """Set how a run that does not use `options` is ended, while it is under way; on the thread itself."""
        with self._lock:
            self._end_also = end
            if end is not None and self.is_over:
                end()


def runs_of_this_thread() -> Interruption | None:
    """Return the calling thread's interruption, if it has one."""
    found: Interruption | None = getattr(_mine, "runs", None)
    return found


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    # A failed run raises; ONNX Runtime would print the reason as well.
    options.log_severity_level = FATAL_ONLY
    return options


_mine = threading.local()
