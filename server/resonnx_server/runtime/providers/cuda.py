"""Loads the CUDA libraries that onnxruntime-gpu installs by its extras: no path of the loader leads to them."""

import contextlib
import io
import threading

import onnxruntime as ort

_lock = threading.Lock()
_done = False


def load_cuda() -> None:
    """Load them before the first session on a GPU; libraries on the loader's path are found as well. Thread-safe."""
    global _done
    with _lock:
        if not _done:
            # What is missing is printed; the session's error says it as well. stdout has the ready line alone.
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls(directory="")
            _done = True
