"""Page-locked host memory: a GPU fetches from it by itself, without the driver's copy into a buffer of its own.

The memory is ours and registered with CUDA by cudaHostRegister. ONNX Runtime's own page-locked allocator is not to be
had from Python: OrtValue.ortvalue_from_shape_and_type takes a `memory_info` of an OrtEpDevice, and the CUDA provider
of onnxruntime-gpu 1.31 is none (its get_ep_devices lists the CPU alone). Nobody has run this on a GPU yet; tests run
it with a library that only takes notes.
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
    """Allocates page-locked arrays; pageable ones, after one warning, where that cannot be done.

    Args:
        library: The CUDA runtime: `cudaHostRegister(pointer, bytes, flags)` and `cudaHostUnregister(pointer)`, each
            giving 0 or an error's number. None looks at the first allocation for the one that ONNX Runtime's provider
            has loaded into this process: it has once a session is open.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._gave_up = False
        self._lock = threading.Lock()

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return zeros; objects, which no GPU can read, in pageable memory. Any thread."""
        dtype = np.dtype(dtype)
        bytes_ = math.prod(shape) * dtype.itemsize
        library = None if dtype.hasobject or not bytes_ else self._runtime()
        if library is None:
            return np.zeros(shape, dtype)
        # Of whole pages, as pages are what is locked: two buffers must not share one.
        flat = np.frombuffer(mmap.mmap(-1, bytes_), dtype)
        pointer = flat.ctypes.data
        error = library.cudaHostRegister(ctypes.c_void_p(pointer), ctypes.c_size_t(bytes_), ctypes.c_uint(0))
        if error:
            self._give_up(f"cudaHostRegister of {bytes_} bytes gave error {error}")
        else:
            # Runs before the memory is unmapped, and not at exit, when the driver may have gone.
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
            _log.warning("batches are put together in pageable memory", extra={"reason": reason})


def loaded_library(name: str, maps: Path = _MAPS) -> str | None:
    """Return the path of a shared library that this process has loaded, by the beginning of its file's name."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    # address, permissions, offset, device, inode, path
    paths = (fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6)
    return next((path for path in paths if Path(path).name.startswith(name)), None)
