"""The compute capability of the first NVIDIA GPU, asked of its driver."""

import ctypes
from typing import Final

# CUdevice_attribute, of cuda.h.
_MAJOR: Final = 75
_MINOR: Final = 76
_LIBRARY: Final = "libcuda.so.1"


def compute_capability(library: str = _LIBRARY) -> str | None:
    """Return it as "8.9"; None without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL(library)
        device, found = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return None
        for number, attribute in zip(found, (_MAJOR, _MINOR), strict=True):
            if cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
                return None
    except (OSError, AttributeError):
        return None
    return ".".join(str(number.value) for number in found)
