"""Recognises errors of ONNX Runtime, CUDA and Python that say that memory is spent."""

import re
from typing import Final

_PATTERN: Final = re.compile(
    r"bad_alloc|out of memory|not enough memory|failed to allocate memory|BFCArena|cuda failure 2\b|_ALLOC_FAILED"
    r"|Available memory of \d+ is smaller",
    re.IGNORECASE,
)


def is_lack_of_memory(error: Exception) -> bool:
    """Whether an error of a run says that memory is spent, on the device or in the process."""
    return isinstance(error, MemoryError) or _PATTERN.search(str(error)) is not None
