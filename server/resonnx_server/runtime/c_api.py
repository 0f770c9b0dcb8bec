"""ONNX Runtime's C API, in the library that its wheel carries beside the Python binding.

A function's place in the API's table is fixed: later versions append.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

# The oldest version of the API that has all of these.
_API_VERSION: Final = 15
_PLACES: Final = {
    "GetErrorMessage": 2,
    "CreateEnv": 3,
    "CreateSessionFromArray": 8,
    "Run": 9,
    "CreateSessionOptions": 10,
    "SetSessionLogSeverityLevel": 22,
    "SetIntraOpNumThreads": 24,
    "SetInterOpNumThreads": 25,
    "CreateRunOptions": 39,
    "RunOptionsSetRunLogSeverityLevel": 41,
    "RunOptionsSetTerminate": 46,
    "RunOptionsUnsetTerminate": 47,
    "CreateTensorAsOrtValue": 48,
    "CreateTensorWithDataAsOrtValue": 49,
    "GetTensorMutableData": 51,
    "FillStringTensor": 52,
    "GetStringTensorDataLength": 53,
    "GetStringTensorContent": 54,
    "GetTensorElementType": 60,
    "GetDimensionsCount": 61,
    "GetDimensions": 62,
    "GetTensorTypeAndShape": 65,
    "CreateCpuMemoryInfo": 69,
    "GetAllocatorWithDefaultOptions": 78,
    "ReleaseStatus": 93,
    "ReleaseSession": 95,
    "ReleaseValue": 96,
    "ReleaseRunOptions": 97,
    "ReleaseTensorTypeAndShapeInfo": 99,
    "ReleaseSessionOptions": 100,
    "AddSessionConfigEntry": 130,
    "GetResizedStringTensorElementBuffer": 252,
}
# A level of severity: errors are logged.
ERRORS_ONLY: Final = 3
_LIBRARIES: Final = ("libonnxruntime.so*", "libonnxruntime*.dylib", "onnxruntime.dll")


def library() -> Path | None:
    """Return the file of ONNX Runtime's C API, or None where the installed package has none."""
    folder = Path(ort.__file__).parent / "capi"
    return next((path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern))), None)


class Api:
    """The functions, and what all sessions share: it is made once, and lasts."""

    def __init__(self, path: Path) -> None:
        base = ctypes.CDLL(str(path)).OrtGetApiBase
        base.restype = ctypes.POINTER(ctypes.c_void_p)
        get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(base()[0])
        self._table = ctypes.cast(get(_API_VERSION), ctypes.POINTER(ctypes.c_void_p))
        self._functions = {name: self._function(name, place) for name, place in _PLACES.items()}
        self.environment = self.new("CreateEnv", ERRORS_ONLY, b"resonnx")
        self.allocator = self.new("GetAllocatorWithDefaultOptions")
        # In memory that an arena does not own, of the kind that the CPU reads.
        self.memory = self.new("CreateCpuMemoryInfo", 0, 0)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function. Raises RuntimeError if it says that it failed."""
        if status := self._functions[name](*arguments):
            message: bytes = self._functions["GetErrorMessage"](ctypes.c_void_p(status))
            told = message.decode(errors="replace")
            self.release("Status", status)
            raise RuntimeError(told)

    def new(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """Return what a function gives by its last argument. Raises RuntimeError likewise."""
        made = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(made))
        return made

    def release(self, kind: str, handle: "ctypes.c_void_p | int | None") -> None:
        """Let go of what `new` made; of nothing, if that is what it is."""
        self._functions[f"Release{kind}"](handle if isinstance(handle, ctypes.c_void_p) else ctypes.c_void_p(handle))

    def _function(self, name: str, place: int) -> Any:
        returned = None if name.startswith("Release") else ctypes.c_void_p
        if name == "GetErrorMessage":
            returned = ctypes.c_char_p  # type: ignore[assignment]
        # Without types of arguments: each is given as what it is.
        function = ctypes.CFUNCTYPE(returned)(self._table[place] or 0)
        return function


@cache
def c_api() -> Api:
    """Return the API of the installed package; `library` must have found it."""
    path = library()
    assert path is not None, "asked for without a look"
    return Api(path)
