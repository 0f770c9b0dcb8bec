"""Buffers that batches are put together in: allocated once, lent to one batch at a time."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from resonnx_server.runtime.session import Array

# Gives zeros of a shape and dtype, in memory that suits the device which reads them.
Allocate = Callable[[tuple[int, ...], np.dtype[Any]], Array]


class BufferPool:
    """Lends arrays [size, ...] for the rows of one input; the lane that borrows one gives it back after the run.

    Args:
        largest: Rows of a buffer.
        allocate: Where buffers come from.
    """

    def __init__(self, largest: int, allocate: Allocate = np.zeros) -> None:
        self._largest = largest
        self._allocate = allocate
        self._free: list[Array] = []

    def join(self, parts: Sequence[Array], size: int) -> tuple[Array, Array | None]:
        """Put `parts` ([rows, ...] each, equal dtype and row shape) one after the other into an array [size, ...].

        Rows beyond the parts hold the first row: what an earlier batch left there might be what a model fails on.

        Returns:
            The array, and the buffer to give back with `release` (None where the only part is passed on uncopied).
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
        """Take a buffer back."""
        if buffer is not None:
            self._free.append(buffer)

    def _lend(self, like: Array) -> Array:
        # Not looked at first: another lane may take the last one in between.
        with suppress(IndexError):
            buffer = self._free.pop()
            if buffer.shape[1:] == like.shape[1:] and buffer.dtype == like.dtype:
                return buffer
        buffer = self._allocate((self._largest, *like.shape[1:]), like.dtype)
        if like.dtype == object:
            buffer.fill(b"")
        return buffer
