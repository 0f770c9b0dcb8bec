"""Page-locked host memory, from which a GPU copies directly, without the driver's intermediate buffer.

Our memory, registered by cudaHostRegister: ONNX Runtime's page-locked allocator is not available in Python, as the
CUDA provider of onnxruntime-gpu 1.31 is no OrtEpDevice. `deploy/check-gpu` runs this on a GPU.
"""

import ctypes
import logging
import math
import mmap
import threading
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.session import Array

_log = logging.getLogger(__name__)

_MAPS: Final = Path("/proc/self/maps")


class PageLockedMemory:
    """Allocates page-locked arrays; after a failure, logged once, pageable ones.

    Args:
        library: The CUDA runtime: `cudaHostRegister(pointer, bytes, flags)` and `cudaHostUnregister(pointer)`, which
            return 0 or an error number. None uses the one that ONNX Runtime has loaded into this process, looked up at
            the first allocation.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._gave_up = False
        self._lock = threading.Lock()

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array of zeros; arrays of objects are pageable. Thread-safe."""
        dtype = np.dtype(dtype)
        bytes_ = math.prod(shape) * dtype.itemsize
        library = None if dtype.hasobject or not bytes_ else self._runtime()
        if library is None:
            return np.zeros(shape, dtype)
        # Whole pages: pages are locked, so two buffers must not share one.
        flat = np.frombuffer(mmap.mmap(-1, bytes_), dtype)
        pointer = flat.ctypes.data
        error = library.cudaHostRegister(ctypes.c_void_p(pointer), ctypes.c_size_t(bytes_), ctypes.c_uint(0))
        if error:
            self._give_up(f"cudaHostRegister of {bytes_} bytes returned error {error}")
        else:
            # Before the memory is unmapped; not at exit, when the driver may be gone.
            weakref.finalize(flat, library.cudaHostUnregister, ctypes.c_void_p(pointer)).atexit = False
        # Views keep `flat` alive.
        return flat.reshape(shape)

    def _runtime(self) -> Any:
        with self._lock:
            if self._library is None and not self._gave_up:
                path = loaded_library("libcudart.so")
                if path is None:
                    self._give_up("no libcudart is loaded")
                else:
                    self._library = ctypes.CDLL(path)
            return None if self._gave_up else self._library

    def _give_up(self, reason: str) -> None:
        if not self._gave_up:
            self._gave_up = True
            _log.warning("batch buffers are pageable memory, not page-locked", extra={"reason": reason})


def loaded_library(name: str, maps: Path = _MAPS) -> str | None:
    """Return the path of a shared library loaded by this process whose file name starts with `name`."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    # address, permissions, offset, device, inode, path
    paths = (fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6)
    return next((path for path in paths if Path(path).name.startswith(name)), None)
