"""Decode slots in host memory: state and features of all captions under way, as rows of fixed buffers.

Features are written once, when a row is taken, and a step's inputs are views: nothing is copied that did not change,
but the states that a step gave.
"""

from collections.abc import Sequence

import numpy as np

from resonnx_server.captioning.rows import SlotRows, T
from resonnx_server.runtime.session import Array


class Slots(SlotRows[T, Array]):
    """Preallocated rows.

    Args:
        capacity: Rows.
        state: One array [n, ...] of each state, for shapes and dtypes.
        features: Likewise for each feature.
    """

    def __init__(self, capacity: int, state: Sequence[Array], features: Sequence[Array]) -> None:
        super().__init__(capacity)
        self._state = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in state]
        self._features = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in features]

    def inputs(self, size: int) -> tuple[Array, list[Array], list[Array]]:
        """See SlotRows; views."""
        return self._tokens[:size], [s[:size] for s in self._state], [f[:size] for f in self._features]

    def store(self, state: Sequence[Array]) -> None:
        """See SlotRows."""
        used = len(self)
        for buffer, array in zip(self._state, state, strict=True):
            buffer[:used] = array[:used]

    def _gather(self, rows: Sequence[int]) -> tuple[list[Array], list[Array]]:
        return [s[rows] for s in self._state], [f[rows] for f in self._features]

    def _clear_from(self, row: int) -> None:
        for buffer in (*self._state, *self._features):
            buffer[row:] = 0

    def _put_state(self, row: int, state: Sequence[Array], source: int) -> None:
        for buffer, array in zip(self._state, state, strict=True):
            buffer[row] = array[source]

    def _put_features(self, row: int, features: Sequence[Array], source: int) -> None:
        for buffer, array in zip(self._features, features, strict=True):
            buffer[row] = array[source]

    def _copy_state(self, row: int, source: int) -> None:
        for buffer in self._state:
            buffer[row] = buffer[source]

    def _copy_features(self, row: int, source: int) -> None:
        for buffer in self._features:
            buffer[row] = buffer[source]
