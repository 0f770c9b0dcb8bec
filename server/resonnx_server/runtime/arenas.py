"""Frees the memory that ONNX Runtime's sessions keep on the CPU for later runs: it grows to that of the largest run."""

import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime as ort

from resonnx_server.runtime.c_api import FATAL_ONLY

# Of an input: its smallest shape and its type.
Smallest = tuple[tuple[int, ...], np.dtype[Any]]

# Open sessions and their inputs by name.
_open: "weakref.WeakKeyDictionary[Any, Mapping[str, Smallest]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def register(session: Any, inputs: Mapping[str, Smallest]) -> None:
    """Let `shrink_arenas` know an ort.InferenceSession, as long as it lives, and the inputs that it needs at least."""
    with _lock:
        _open[session] = inputs


def shrink_arenas() -> None:
    """Free what the sessions keep and no run uses; the next run of each is slower. Thread-safe, beside any runs.

    ONNX Runtime does so at the end of a run with this option. Here runs end before their first node.
    """
    options = ort.RunOptions()
    options.log_severity_level = FATAL_ONLY
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    options.terminate = True
    with _lock:
        sessions = list(_open.items())
    for session, inputs in sessions:
        # They fail in any case; providers without an arena refuse the option.
        with suppress(Exception):
            session.run(None, {name: np.zeros(*smallest) for name, smallest in inputs.items()}, options)
