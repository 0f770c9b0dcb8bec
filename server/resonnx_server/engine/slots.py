"""The decode slots of a captioner: state and features of all captions under way, as rows 0..n-1 of fixed buffers.

Owned by the one decoder step that is under way. Features are written once, when a row is taken; a row that is freed is
replaced by the last one; a beam that goes on stays in its row. Nothing else moves.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from resonnx_server.runtime.session import Array


class Owner(Protocol):
    """What decodes in slots. `rows` are its rows in the order of its beams; kept up to date by Slots.

    Should a call of Slots raise, `rows` are still all rows that it holds, so `leave` frees them.
    """

    rows: list[int]


T = TypeVar("T", bound=Owner)


class Slots(Generic[T]):
    """Preallocated rows.

    Args:
        capacity: Rows.
        state: One array [n, ...] of each state, for shapes and dtypes.
        features: Likewise for each feature.
    """

    def __init__(self, capacity: int, state: Sequence[Array], features: Sequence[Array]) -> None:
        self.capacity = capacity
        self.owners: dict[T, None] = {}  # an ordered set
        self._owner_of: list[T] = []
        self._tokens = np.zeros(capacity, np.int64)
        self._state = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in state]
        self._features = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in features]

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owner_of)

    def join(self, owner: T, tokens: Sequence[int], state: Sequence[Array], features: Sequence[Array]) -> None:
        """Take a row for each of `tokens`; `state` and `features` are one row's, without the row axis.

        Raises:
            IndexError: No row is free.
        """
        self.owners[owner] = None
        for token in tokens:
            row = self._take(owner)
            self._tokens[row] = token
            for buffer, array in zip((*self._state, *self._features), (*state, *features), strict=True):
                buffer[row] = array

    def leave(self, owner: T) -> None:
        """Free all rows of `owner`."""
        rows, owner.rows = owner.rows, []
        self._free(rows)
        del self.owners[owner]

    def inputs(self, size: int) -> tuple[Array, list[Array], list[Array]]:
        """Return tokens, states and features of the first `size` rows (views; rows beyond those in use are stale)."""
        return self._tokens[:size], [s[:size] for s in self._state], [f[:size] for f in self._features]

    def store(self, state: Sequence[Array]) -> None:
        """Write the states that a step gave its rows."""
        used = len(self._owner_of)
        for buffer, array in zip(self._state, state, strict=True):
            buffer[:used] = array[:used]

    def advance(self, owner: T, sources: Sequence[int], tokens: Sequence[int]) -> None:
        """Give an owner's rows their next tokens, after `store`.

        Args:
            owner: Its rows may become more or fewer.
            sources: For each beam, which of the owner's beams before it goes on from.
            tokens: For each beam, what it is fed next.

        Raises:
            IndexError: No row is free.
        """
        if len(sources) == len(owner.rows) == 1:
            self._tokens[owner.rows[0]] = tokens[0]
            return
        before = list(owner.rows)
        # The first that goes on from a row stays there, so no row that is copied from is written to.
        stays = {source: i for i, source in reversed(list(enumerate(sources)))}
        spare = [row for i, row in enumerate(before) if i not in stays]
        rows: list[int] = []
        for i, source in enumerate(sources):
            row = before[source]
            if stays[source] != i:
                row = self._copy(row, spare.pop() if spare else None, owner)
            rows.append(row)
            self._tokens[row] = tokens[i]
        owner.rows = rows
        self._free(spare)

    def _copy(self, source: int, spare: int | None, owner: T) -> int:
        row = self._take(owner) if spare is None else spare
        for buffer in self._state:
            buffer[row] = buffer[source]
        if spare is None:  # a spare row is of the same picture
            for buffer in self._features:
                buffer[row] = buffer[source]
        return row

    def _take(self, owner: T) -> int:
        row = len(self._owner_of)
        if row == self.capacity:
            raise IndexError(f"all {row} decode slots are taken")
        self._owner_of.append(owner)
        owner.rows.append(row)
        return row

    def _free(self, rows: Sequence[int]) -> None:
        """Free rows that no owner lists any more; the last rows take their places."""
        for row in sorted(rows, reverse=True):
            last = len(self._owner_of) - 1
            moved = self._owner_of.pop()
            if row != last:
                self._owner_of[row] = moved
                moved.rows[moved.rows.index(last)] = row
                for buffer in (self._tokens, *self._state, *self._features):
                    buffer[row] = buffer[last]
