"""Runs graphs with tensors of strings or bfloat16 through ONNX Runtime's C API.

Its Python binding only accepts strings of UTF-8, and has no arrays of bfloat16.
"""

import ctypes
import math
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import InvalidInput
from resonnx_server.runtime.bfloat16 import BFLOAT16
from resonnx_server.runtime.c_api import ERRORS_ONLY, FATAL_ONLY, c_api
from resonnx_server.runtime.interruption import runs_of_this_thread

Array = npt.NDArray[Any]

_STRING: Final = 8
# Strings handled at a time: between pieces, `time.sleep(0)` lets other threads run.
_PIECE: Final = 1 << 12
# ONNXTensorElementDataType, without strings.
_TYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("u2"),
    5: np.dtype("i2"),
    6: np.dtype("i4"),
    7: np.dtype("i8"),
    9: np.dtype("?"),
    10: np.dtype("f2"),
    11: np.dtype("f8"),
    12: np.dtype("u4"),
    13: np.dtype("u8"),
    16: BFLOAT16,
}
_CODES: Final = {dtype: code for code, dtype in _TYPES.items()}


def as_text(name: str, array: Array) -> Array:
    """Return an input's strings, bytes objects, as str objects for the Python binding.

    Raises:
        InvalidInput: A string is not UTF-8.
    """
    result = np.empty(array.size, object)
    try:
        result[:] = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidInput(f"inputs[{name!r}]", "a string is not UTF-8, which this execution provider needs") from None
    return result.reshape(array.shape)


class StringSession:
    """One graph on the CPU provider.

    Args:
        model: The ONNX file's bytes.
        threads: Threads of one run.

    Raises:
        RuntimeError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        api = self._api = c_api()
        options = api.new("CreateSessionOptions")
        try:
            api.call("SetSessionLogSeverityLevel", options, ERRORS_ONLY)
            api.call("SetIntraOpNumThreads", options, threads)
            api.call("SetInterOpNumThreads", options, 1)
            api.call("AddSessionConfigEntry", options, b"session.intra_op.allow_spinning", b"0")
            self._session = api.new("CreateSessionFromArray", api.environment, model, _size(len(model)), options)
        finally:
            api.release("SessionOptions", options)
        self._run_options = self._new_run_options()
        weakref.finalize(self, api.release, "Session", self._session)
        weakref.finalize(self, api.release, "RunOptions", self._run_options)

    def terminate(self) -> None:
        """End all runs of loads, current and later ones, with an error. Thread-safe."""
        self._api.call("RunOptionsSetTerminate", self._run_options)

    def _new_run_options(self) -> ctypes.c_void_p:
        options: ctypes.c_void_p = self._api.new("CreateRunOptions")
        self._api.call("RunOptionsSetRunLogSeverityLevel", options, FATAL_ONLY)
        return options

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph.

        Args:
            feeds: Inputs by name; strings are bytes objects.
            outputs: Names of the outputs to return.

        Returns:
            The outputs, in that order; strings are bytes objects.

        Raises:
            RuntimeError: The run failed.
        """
        api = self._api
        names = (ctypes.c_char_p * len(feeds))(*(name.encode() for name in feeds))
        wanted = (ctypes.c_char_p * len(outputs))(*(name.encode() for name in outputs))
        # Tensors of numbers use the arrays' memory.
        arrays = [np.ascontiguousarray(array).reshape(array.shape) for array in feeds.values()]
        given, got = (ctypes.c_void_p * len(feeds))(), (ctypes.c_void_p * len(outputs))()
        try:
            for i, array in enumerate(arrays):
                given[i] = self._strings(array) if array.dtype.hasobject else self._numbers(array)
            with self._interruptible() as options:
                api.call("Run", self._session, options, names, given, _size(len(given)), wanted, _size(len(got)), got)
            return [self._array(value) for value in got]
        finally:
            for value in (*given, *got):
                api.release("Value", value)

    @contextmanager
    def _interruptible(self) -> Iterator[ctypes.c_void_p]:
        """Give a run's options: those of loads, or its own, with which its thread's runs can be ended."""
        if (runs := runs_of_this_thread()) is None:
            yield self._run_options
            return
        options = self._new_run_options()
        try:
            runs.end_by(partial(self._api.call, "RunOptionsSetTerminate", options))
            yield options
        finally:
            runs.end_by(None)
            self._api.release("RunOptions", options)

    def _numbers(self, array: Array) -> ctypes.c_void_p:
        api, shape = self._api, _shape(array)
        content = array.ctypes.data_as(ctypes.c_void_p)
        memory = (api.memory, content, _size(array.nbytes))
        return api.new("CreateTensorWithDataAsOrtValue", *memory, shape, _size(array.ndim), _CODES[array.dtype])

    def _strings(self, array: Array) -> ctypes.c_void_p:
        api, buffer = self._api, ctypes.c_void_p()
        flat = array.reshape(-1)
        value = api.new("CreateTensorAsOrtValue", api.allocator, _shape(array), _size(array.ndim), _STRING)
        try:
            # All in one call, each up to its first zero byte; then those with a zero byte one by one.
            pieces: list[bytes] = []
            pointers = np.empty(len(flat), np.int64)
            with_zeros: list[tuple[int, bytes]] = []
            for first in range(0, len(flat), _PIECE):
                elements: list[bytes] = flat[first : first + _PIECE].tolist()
                joined = b"\0".join((*elements, b""))
                lengths = np.fromiter(map(len, elements), np.int64, len(elements))
                start = ctypes.cast(ctypes.c_char_p(joined), ctypes.c_void_p).value or 0
                pointers[first : first + _PIECE] = start + np.cumsum(lengths + 1) - (lengths + 1)
                pieces.append(joined)
                time.sleep(0)
                if joined.count(b"\0") != len(elements):
                    with_zeros += [(first + i, element) for i, element in enumerate(elements) if b"\0" in element]
            api.call("FillStringTensor", value, pointers.ctypes.data_as(ctypes.c_void_p), _size(len(flat)))
            for i, element in with_zeros:
                size = _size(len(element))
                api.call("GetResizedStringTensorElementBuffer", value, _size(i), size, ctypes.byref(buffer))
                ctypes.memmove(buffer.value or 0, element, len(element))
        except BaseException:
            api.release("Value", value)
            raise
        return value

    def _array(self, value: int | None) -> Array:
        api, number, count = self._api, ctypes.c_int(), ctypes.c_size_t()
        handle = ctypes.c_void_p(value)
        info = api.new("GetTensorTypeAndShape", handle)
        try:
            api.call("GetTensorElementType", info, ctypes.byref(number))
            api.call("GetDimensionsCount", info, ctypes.byref(count))
            sizes = (ctypes.c_int64 * count.value)()
            api.call("GetDimensions", info, sizes, count)
        finally:
            api.release("TensorTypeAndShapeInfo", info)
        shape = tuple(sizes)
        if number.value == _STRING:
            return self._bytes(handle, math.prod(shape)).reshape(shape)
        dtype = _TYPES[number.value]
        content = api.new("GetTensorMutableData", handle)
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        # NumPy copies without the GIL.
        borrowed = (ctypes.c_char * size).from_address(content.value or 0)
        return np.frombuffer(borrowed, dtype).copy().reshape(shape)

    def _bytes(self, handle: ctypes.c_void_p, count: int) -> Array:
        api, length = self._api, ctypes.c_size_t()
        elements = np.empty(count, object)
        if not count:
            return elements
        api.call("GetStringTensorDataLength", handle, ctypes.byref(length))
        content, starts = np.empty(length.value + 1, np.uint8), np.empty(count + 1, np.uint64)
        starts[count] = length.value
        buffers = (content.ctypes.data_as(ctypes.c_void_p), length, starts.ctypes.data_as(ctypes.c_void_p))
        api.call("GetStringTensorContent", handle, *buffers, _size(count))
        for first in range(0, count, _PIECE):
            within: list[int] = starts[first : first + _PIECE + 1].tolist()
            joined, start = content[within[0] : within[-1]].tobytes(), within[0]
            elements[first : first + _PIECE] = [joined[a - start : b - start] for a, b in pairwise(within)]
            time.sleep(0)
        return elements


def _size(count: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(count)


def _shape(array: Array) -> Any:
    return (ctypes.c_int64 * array.ndim)(*array.shape)
