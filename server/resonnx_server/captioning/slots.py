"""Decode slots: the rows of a decoder step, and which caption owns which.

Rows 0..n-1 are in use. A freed row is replaced by the last one, and a beam that goes on stays in its row; nothing else
moves. The slots are owned by the one decoder step that runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from resonnx_server.runtime.graphs import D
from resonnx_server.runtime.session import Array


class Owner(Protocol):
    """A caption in the slots. `rows` are its rows in the order of its beams; Slots keeps them up to date.

    If a method of Slots raises, `rows` still lists all rows that it holds, so `leave` frees them.
    """

    rows: list[int]


T = TypeVar("T", bound=Owner)


class Rows(ABC, Generic[D]):
    """Tensors [capacity, ...] with one row for each slot: all states, or all features."""

    @abstractmethod
    def read(self, used: int, size: int) -> list[D]:
        """Return the first `size` rows, valid until the next call; those after the first `used` hold any values."""

    @abstractmethod
    def replace(self, tensors: Sequence[D], used: int) -> None:
        """Take the first `used` rows of `tensors`."""

    @abstractmethod
    def put(self, row: int, batch: Sequence[D], source: int) -> None:
        """Take row `source` of a batch into `row`."""

    @abstractmethod
    def copy(self, row: int, source: int) -> None:
        """Copy row `source` to `row`."""

    @abstractmethod
    def gather(self, rows: Sequence[int]) -> list[D]:
        """Return copies of some rows, in that order."""

    @abstractmethod
    def clear_from(self, row: int) -> None:
        """Give `row` and the rows after it values that a decoder accepts."""

    @property
    @abstractmethod
    def host_bytes(self) -> int:
        """Bytes of host memory that all rows take."""

    @abstractmethod
    def empty(self) -> Self:
        """Return rows of the same shapes and dtypes, in memory of their own."""


class HostRows(Rows[Array]):
    """Rows in host memory. `read` returns views, so a step copies nothing but the states that it gave.

    Args:
        capacity: Rows.
        like: One array [n, ...] of each tensor, for shapes and dtypes.
    """

    def __init__(self, capacity: int, like: Sequence[Array]) -> None:
        self._capacity = capacity
        self._buffers = [np.zeros((capacity, *array.shape[1:]), array.dtype) for array in like]

    def read(self, used: int, size: int) -> list[Array]:
        return [buffer[:size] for buffer in self._buffers]

    def replace(self, tensors: Sequence[Array], used: int) -> None:
        for buffer, array in zip(self._buffers, tensors, strict=True):
            buffer[:used] = array[:used]

    def put(self, row: int, batch: Sequence[Array], source: int) -> None:
        for buffer, array in zip(self._buffers, batch, strict=True):
            buffer[row] = array[source]

    def copy(self, row: int, source: int) -> None:
        for buffer in self._buffers:
            buffer[row] = buffer[source]

    def gather(self, rows: Sequence[int]) -> list[Array]:
        return [buffer[rows] for buffer in self._buffers]

    def clear_from(self, row: int) -> None:
        for buffer in self._buffers:
            buffer[row:] = 0

    @property
    def host_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)

    def empty(self) -> Self:
        return type(self)(self._capacity, self._buffers)


class Slots(Generic[T, D]):
    """Rows for the captions of many owners, each with an input token, states and features.

    Args:
        capacity: Rows.
        state: The states, which every step replaces.
        features: The features, which stay while a caption is decoded.
    """

    def __init__(self, capacity: int, state: Rows[D], features: Rows[D]) -> None:
        self.capacity = capacity
        self.owners: dict[T, None] = {}  # an ordered set
        self._state, self._features = state, features
        self._owner_of: list[T] = []
        self._tokens = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owner_of)

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that all slots take."""
        return self._tokens.nbytes + self._state.host_bytes + self._features.host_bytes

    def empty(self) -> "Slots[T, D]":
        """Return slots without captions, in memory of their own; a step that hangs keeps the present ones."""
        return Slots(self.capacity, self._state.empty(), self._features.empty())

    def join(self, owner: T, tokens: Sequence[int], state: Sequence[D], features: Sequence[D], source: int) -> None:
        """Take a row for each of `tokens`, all of which begin with row `source` of an encoder batch.

        Args:
            owner: Of the rows.
            tokens: The next input token of each.
            state: The batch's states [N, ...].
            features: The batch's features [N, ...].
            source: Row of the batch.

        Raises:
            IndexError: No row is free.
        """
        self.owners[owner] = None
        for token in tokens:
            row = self._take(owner)
            self._tokens[row] = token
            self._state.put(row, state, source)
            self._features.put(row, features, source)

    def leave(self, owner: T) -> None:
        """Free all rows of `owner`."""
        rows, owner.rows = owner.rows, []
        self._free(rows)
        del self.owners[owner]

    def inputs(self, size: int) -> tuple[Array, list[D], list[D]]:
        """Return tokens, states and features of the first `size` rows, valid until the next call.

        Args:
            size: Rows, from those in use to `capacity`; the others hold values of earlier captions.
        """
        used = len(self._owner_of)
        return self._tokens[:size], self._state.read(used, size), self._features.read(used, size)

    def store(self, state: Sequence[D]) -> None:
        """Take the states [R, ...] that a step of `inputs` gave."""
        self._state.replace(state, len(self._owner_of))

    def inputs_of(self, owner: T, size: int) -> tuple[Array, list[D], list[D]]:
        """Return copies of tokens, states and features of one owner's rows in its order, padded by its first to `size`.

        Args:
            owner: Has rows.
            size: Rows, at least the owner's.
        """
        rows = [*owner.rows, *owner.rows[:1] * (size - len(owner.rows))]
        return self._tokens[rows], self._state.gather(rows), self._features.gather(rows)

    def store_of(self, owner: T, state: Sequence[D]) -> None:
        """Take the states that a step of `inputs_of` gave."""
        for source, row in enumerate(owner.rows):
            self._state.put(row, state, source)

    def clear_free(self) -> None:
        """Remove from the free rows, which pad steps, whatever a decoder may have failed on."""
        used = len(self._owner_of)
        self._tokens[used:] = 0
        self._state.clear_from(used)
        self._features.clear_from(used)

    def advance(self, owner: T, sources: Sequence[int], tokens: Sequence[int]) -> None:
        """Give an owner's rows their next tokens, after `store`.

        Args:
            owner: Its rows may become more or fewer.
            sources: For each beam, the index of the owner's earlier beam that it continues.
            tokens: The next input token of each beam.

        Raises:
            IndexError: No row is free.
        """
        if len(sources) == len(owner.rows) == 1:
            self._tokens[owner.rows[0]] = tokens[0]
            return
        before = list(owner.rows)
        # The first beam that continues a row stays there, so no row that is copied from is overwritten.
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
        self._state.copy(row, source)
        if spare is None:  # a spare row has the same picture's features
            self._features.copy(row, source)
        return row

    def _take(self, owner: T) -> int:
        row = len(self._owner_of)
        if row == self.capacity:
            raise IndexError(f"all {row} decode slots are taken")
        self._owner_of.append(owner)
        owner.rows.append(row)
        return row

    def _free(self, rows: Sequence[int]) -> None:
        """Free rows that no owner lists any more; the last rows move into them."""
        for row in sorted(rows, reverse=True):
            last = len(self._owner_of) - 1
            moved = self._owner_of.pop()
            if row != last:
                self._owner_of[row] = moved
                moved.rows[moved.rows.index(last)] = row
                self._tokens[row] = self._tokens[last]
                self._state.copy(row, last)
                self._features.copy(row, last)


def host_slots(capacity: int, state: Sequence[Array], features: Sequence[Array]) -> "Slots[T, Array]":
    """Return slots in host memory.

    Args:
        capacity: Rows.
        state: One array [n, ...] of each state, for shapes and dtypes.
        features: Likewise for each feature.
    """
    return Slots(capacity, HostRows(capacity, state), HostRows(capacity, features))
