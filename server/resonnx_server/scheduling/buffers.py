"""Buffers in which the inputs of batches are joined: allocated once, lent to one batch at a time."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from resonnx_server.runtime.session import Array

# Returns zeros of a shape and dtype, in memory that suits the device.
Allocate = Callable[[tuple[int, ...], np.dtype[Any]], Array]


class BufferPool:
    """Buffers for one input of a model.

    Args:
        largest: Rows of a buffer.
        allocate: Allocates the buffers.
    """

    def __init__(self, largest: int, allocate: Allocate = np.zeros) -> None:
        self._largest = largest
        self._allocate = allocate
        self._free: list[Array] = []

    def join(self, parts: Sequence[Array], size: int) -> tuple[Array, Array | None]:
        """Concatenate `parts`, each [rows, ...] of equal dtype and row shape, to an array [size, ...].

        Padding repeats the first row: rows left over from an earlier batch might make the model fail.

        Returns:
            The array, and the buffer to `release` after the run (None if the only part is passed on uncopied).
        """
        first = parts[0]
        if len(parts) == 1 and len(first) == size:
            return np.ascontiguousarray(first), None
        buffer = self._lend(first)
        start = 0
        for part in parts:
            buffer[start : start + len(part)] = part
            start += len(part)
        buffer[start:size] = first[0]
        return buffer[:size], buffer

    def release(self, buffer: Array | None) -> None:
        """Return a buffer to the pool."""
        if buffer is not None:
            self._free.append(buffer)

    def _lend(self, like: Array) -> Array:
        # Without a check: another lane may take the last buffer in between.
        with suppress(IndexError):
            buffer = self._free.pop()
            if buffer.shape[1:] == like.shape[1:] and buffer.dtype == like.dtype:
                return buffer
        buffer = self._allocate((self._largest, *like.shape[1:]), like.dtype)
        if like.dtype == object:
            buffer.fill(b"")
        return buffer
