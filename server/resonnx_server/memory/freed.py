"""Keeps freed memory small: glibc keeps it for the thread that freed it, see malloc_trim(3) and mallopt(3).

Otherwise every decoding thread would keep the memory of its largest picture, outside the memory budget.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

# Of malloc.h.
_M_ARENA_MAX: Final = -8
# glibc's own variables for the same, which the user may have set.
_OF_THE_USER: Final = ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max")


def share_heaps(cores: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Let threads that start from now on share one heap for each of `cores`, and return whether the C library does.

    By default glibc has eight for each. Each keeps pages in which a few bytes are used, most after bursts of calls,
    which pass through many threads: a server of 2 cores kept 15 to 30 MB more, and more after each larger burst.

    Nothing is done if the user has chosen a number (MALLOC_ARENA_MAX, GLIBC_TUNABLES).
    """
    chosen, tunables = _OF_THE_USER
    if sys.platform != "linux" or chosen in environment or tunables in environment.get("GLIBC_TUNABLES", ""):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # At least two, so that gRPC and the event loop do not wait for each other.
    return set_option is not None and bool(set_option(_M_ARENA_MAX, max(2, cores)))


def give_back_memory() -> None:
    """Return the freed memory of all threads, if the C library can."""
    if (trim := _trim()) is not None:
        # ctypes releases the GIL.
        trim(ctypes.c_size_t(0))


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
