"""Gives memory that is free back to the system: glibc keeps what a thread has freed, for that thread.

Every thread that decodes pictures would keep as much as its largest one took, which no budget of what is decoded at
once bounds. Source: malloc_trim(3).
"""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Do so for all threads, where the C library can."""
    if (trim := _trim()) is not None:
        # Called without the interpreter's lock.
        trim(ctypes.c_size_t(0))


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
