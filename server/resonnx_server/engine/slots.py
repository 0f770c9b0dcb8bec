"""The decode slots of a captioner: state and features of all active captions, as rows 0..active-1 of fixed buffers.

Owned by the one decoder step that is under way. A caption's features are written once, when it joins; a caption that
ends is replaced by the last row. Nothing else moves.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from resonnx_server.runtime.session import Array

T = TypeVar("T")


class Slots(Generic[T]):
    """Preallocated rows.

    Args:
        capacity: Rows.
        state: One array [n, ...] of each state, for shapes and dtypes.
        features: Likewise for each feature.
    """

    def __init__(self, capacity: int, state: Sequence[Array], features: Sequence[Array]) -> None:
        self.capacity = capacity
        self.owners: list[T] = []
        self.tokens = np.zeros(capacity, np.int64)
        self._state = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in state]
        self._features = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in features]

    def __len__(self) -> int:
        return len(self.owners)

    def join(self, owner: T, token: int, state: Sequence[Array], features: Sequence[Array]) -> None:
        """Add a row: `state` and `features` are its rows, without the row axis."""
        row = len(self.owners)
        self.owners.append(owner)
        self.tokens[row] = token
        for buffer, array in zip(self._state, state, strict=True):
            buffer[row] = array
        for buffer, array in zip(self._features, features, strict=True):
            buffer[row] = array

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = len(self.owners) - 1
        if row != last:
            self.owners[row] = self.owners[last]
            for buffer in (self.tokens, *self._state, *self._features):
                buffer[row] = buffer[last]
        self.owners.pop()

    def inputs(self, size: int) -> tuple[Array, list[Array], list[Array]]:
        """Return tokens, states and features of the first `size` rows (views; rows beyond the active are stale)."""
        return self.tokens[:size], [s[:size] for s in self._state], [f[:size] for f in self._features]

    def store(self, tokens: Array, state: Sequence[Array]) -> None:
        """Write the active rows' next tokens and states."""
        active = len(self.owners)
        self.tokens[:active] = tokens[:active]
        for buffer, array in zip(self._state, state, strict=True):
            buffer[:active] = array[:active]
