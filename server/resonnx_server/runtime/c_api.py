"""ONNX Runtime's C API, from the library in its wheel. Positions in the function table never change."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

# The oldest version of the API that has all of these functions.
_API_VERSION: Final = 15
_POSITIONS: Final = {
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
# Log levels.
ERRORS_ONLY: Final = 3
FATAL_ONLY: Final = 4
_LIBRARIES: Final = ("libonnxruntime.so*", "libonnxruntime*.dylib", "onnxruntime.dll")


def library() -> Path | None:
    """Return the library with the C API; None if the installed package has none."""
    folder = Path(ort.__file__).parent / "capi"
    return next((path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern))), None)


class Api:
    """The functions, and the environment that all sessions share; created once per process."""

    def __init__(self, path: Path) -> None:
        base = ctypes.CDLL(str(path)).OrtGetApiBase
        base.restype = ctypes.POINTER(ctypes.c_void_p)
        get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(base()[0])
        self._table = ctypes.cast(get(_API_VERSION), ctypes.POINTER(ctypes.c_void_p))
        self._functions = {name: self._function(name, position) for name, position in _POSITIONS.items()}
        self.environment = self.new("CreateEnv", ERRORS_ONLY, b"resonnx")
        self.allocator = self.new("GetAllocatorWithDefaultOptions")
        # CPU memory outside an arena.
        self.memory = self.new("CreateCpuMemoryInfo", 0, 0)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function. Raises RuntimeError with its message if it fails."""
        if status := self._functions[name](*arguments):
            message: bytes = self._functions["GetErrorMessage"](ctypes.c_void_p(status))
            text = message.decode(errors="replace")
            self.release("Status", status)
            raise RuntimeError(text)

    def new(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """Call a function and return its last argument, a handle. Raises RuntimeError if it fails."""
        made = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(made))
        return made

    def release(self, kind: str, handle: "ctypes.c_void_p | int | None") -> None:
        """Release a handle that `new` returned, or a null one."""
        self._functions[f"Release{kind}"](handle if isinstance(handle, ctypes.c_void_p) else ctypes.c_void_p(handle))

    def _function(self, name: str, position: int) -> Any:
        returned = None if name.startswith("Release") else ctypes.c_void_p
        if name == "GetErrorMessage":
            returned = ctypes.c_char_p  # type: ignore[assignment]
        # Argument types are not declared: callers pass ctypes values.
        return ctypes.CFUNCTYPE(returned)(self._table[position] or 0)


@cache
def c_api() -> Api:
    """Return the API of the installed package, for which `library` must be not None."""
    path = library()
    assert path is not None
    return Api(path)
