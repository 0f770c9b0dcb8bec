"""Which rows of a decoder step are whose: rows 0..n-1 are in use, whoever joins, branches or leaves.

Owned by the one decoder step that is under way. A row that is freed is replaced by the last one; a beam that goes on
stays in its row. Nothing else moves. What the rows hold, and where, is a subclass's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from resonnx_server.runtime.graphs import D
from resonnx_server.runtime.session import Array


class Owner(Protocol):
    """What decodes in slots. `rows` are its rows in the order of its beams; kept up to date by SlotRows.

    Should a call of SlotRows raise, `rows` are still all rows that it holds, so `leave` frees them.
    """

    rows: list[int]


T = TypeVar("T", bound=Owner)


class SlotRows(ABC, Generic[T, D]):
    """Rows for the captions of many owners, each with a token, states and features.

    Args:
        capacity: Rows.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.owners: dict[T, None] = {}  # an ordered set
        self._owner_of: list[T] = []
        self._tokens = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owner_of)

    def join(self, owner: T, tokens: Sequence[int], state: Sequence[D], features: Sequence[D], source: int) -> None:
        """Take a row for each of `tokens`, all of which begin with row `source` of an encoder batch.

        Args:
            owner: Whose they are.
            tokens: What each is fed next.
            state: The batch's states [N, ...].
            features: The batch's features [N, ...].
            source: Which row of them.

        Raises:
            IndexError: No row is free.
        """
        self.owners[owner] = None
        for token in tokens:
            row = self._take(owner)
            self._tokens[row] = token
            self._put_state(row, state, source)
            self._put_features(row, features, source)

    def leave(self, owner: T) -> None:
        """Free all rows of `owner`."""
        rows, owner.rows = owner.rows, []
        self._free(rows)
        del self.owners[owner]

    @abstractmethod
    def inputs(self, size: int) -> tuple[Array, list[D], list[D]]:
        """Return tokens, states and features of the first `size` rows (stale beyond those in use), until the next call.

        Args:
            size: At least the rows in use, at most `capacity`.
        """

    @abstractmethod
    def store(self, state: Sequence[D]) -> None:
        """Take the states that a step gave its rows."""

    def inputs_of(self, owner: T, size: int) -> tuple[Array, list[D], list[D]]:
        """Return tokens, states and features of `owner`'s rows alone, in its order: copies of `size` rows.

        Args:
            owner: Has rows.
            size: At least as many; rows beyond are its first.
        """
        rows = [*owner.rows, *owner.rows[:1] * (size - len(owner.rows))]
        return self._tokens[rows], *self._gather(rows)

    def store_of(self, owner: T, state: Sequence[D]) -> None:
        """Take the states that a step of `inputs_of` gave the rows of `owner`."""
        for source, row in enumerate(owner.rows):
            self._put_state(row, state, source)

    def clear_free(self) -> None:
        """Leave nothing in the free rows, which steps run too, that a decoder could fail on."""
        self._tokens[len(self) :] = 0
        self._clear_from(len(self))

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

    @abstractmethod
    def _gather(self, rows: Sequence[int]) -> tuple[list[D], list[D]]:
        """Return copies of the states and features of some rows, in that order."""

    @abstractmethod
    def _clear_from(self, row: int) -> None:
        """Have states and features that a caption may have in `row` and the rows behind it."""

    @abstractmethod
    def _put_state(self, row: int, state: Sequence[D], source: int) -> None:
        """Give a row the states of row `source` of a batch."""

    @abstractmethod
    def _put_features(self, row: int, features: Sequence[D], source: int) -> None:
        """Give a row the features of row `source` of a batch."""

    @abstractmethod
    def _copy_state(self, row: int, source: int) -> None:
        """Give a row the states of another."""

    @abstractmethod
    def _copy_features(self, row: int, source: int) -> None:
        """Give a row the features of another."""

    def _copy(self, source: int, spare: int | None, owner: T) -> int:
        row = self._take(owner) if spare is None else spare
        self._copy_state(row, source)
        if spare is None:  # a spare row is of the same picture
            self._copy_features(row, source)
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
                self._tokens[row] = self._tokens[last]
                self._copy_state(row, last)
                self._copy_features(row, last)
