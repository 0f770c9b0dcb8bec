"""Returns freed memory to the system: glibc keeps it for the thread that freed it, see malloc_trim(3).

Otherwise every decoding thread would keep the memory of its largest picture, outside the memory budget.
"""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Return the freed memory of all threads, if the C library can."""
    if (trim := _trim()) is not None:
        # ctypes releases the GIL.
        trim(ctypes.c_size_t(0))


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
