"""Rows of decode slots in a device's memory: states and features stay where the decoder computes.

Changes are only noted, row by row. Before the next step one run of a graph that does nothing else
(runtime/device_state.py) puts the rows in order, if a row has moved or the step has another size. States and features
are ordered apart: beams move at every step and share their picture's features.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import numpy as np

from resonnx_server.captioning.slots import HostRows, Rows, Slots, T
from resonnx_server.runtime.binding import DeviceTensor
from resonnx_server.runtime.session import Array

# Takes tensors [n, ...], others [m, ...] and an index int64 [R] into the rows of both; returns tensors [R, ...].
OrderRows = Callable[[Sequence[DeviceTensor], Sequence[DeviceTensor], Array], list[DeviceTensor]]

_CURRENT: Final = 0


class DeviceRows(Rows[DeviceTensor]):
    """Tensors of all slots, and where each slot's row is until they are put in order.

    At most four times the rows' bytes are in use at once.

    Args:
        capacity: Slots.
        blank: Tensors [1, ...] to begin with.
        order: Puts rows in order.
    """

    def __init__(self, capacity: int, blank: Sequence[DeviceTensor], order: OrderRows) -> None:
        self._capacity, self._blank, self._order = capacity, blank, order
        # Apart from rows that were put or copied.
        self._is_ordered = True
        # The tensors of the last step, then the batches that rows were taken from since.
        self._batches: list[Sequence[DeviceTensor]] = [blank]
        # For each slot: index of the batch, and row in it.
        self._sources = [(_CURRENT, 0)] * capacity

    def read(self, used: int, size: int) -> list[DeviceTensor]:
        """Return whole tensors of `size` rows.

        Raises:
            Exception: ONNX Runtime's own; the rows are then as they were.
        """
        current, sources = self._batches[_CURRENT], self._sources[:used]
        is_ordered = self._is_ordered and all(source == (_CURRENT, slot) for slot, source in enumerate(sources))
        if current[0].rows != size or not is_ordered:
            current = self._merged(sources, size)
        self.replace(current, used)
        self._is_ordered = True
        return list(current)

    def replace(self, tensors: Sequence[DeviceTensor], used: int) -> None:
        self._batches = [tensors]
        self._sources = [(_CURRENT, slot) for slot in range(len(self._sources))]

    def put(self, row: int, batch: Sequence[DeviceTensor], source: int) -> None:
        # Pictures of one encoder batch bring the same list.
        number = next((i for i, known in enumerate(self._batches) if known is batch), len(self._batches))
        if number == len(self._batches):
            self._batches.append(batch)
        self._sources[row] = (number, source)

    def copy(self, row: int, source: int) -> None:
        self._sources[row] = self._sources[source]

    def gather(self, rows: Sequence[int]) -> list[DeviceTensor]:
        return list(self._merged([self._sources[row] for row in rows], len(rows)))

    def clear_from(self, row: int) -> None:
        # Ordering fills all rows behind those in use with the first.
        self._is_ordered = False

    @property
    def host_bytes(self) -> int:
        return 0

    def empty(self) -> Self:
        return type(self)(self._capacity, self._blank, self._order)

    def _merged(self, sources: list[tuple[int, int]], size: int) -> Sequence[DeviceTensor]:
        """Return tensors of `size` rows, the first of which are those at `sources`."""
        current = self._batches[_CURRENT]
        # Mostly no batch joined, or one.
        for batch in sorted({batch for batch, _ in sources} - {_CURRENT}) or [_CURRENT]:
            current, sources = self._ordered(current, sources, batch, size)
        return current

    def _ordered(
        self, current: Sequence[DeviceTensor], sources: list[tuple[int, int]], joining: int, size: int
    ) -> tuple[list[DeviceTensor], list[tuple[int, int]]]:
        """Put rows of `current` and of the batch `joining` in order; return the tensors and the sources in them."""
        # A graph's inputs need at least one row: without a joining batch, the blank row, which no slot has.
        joined = self._blank if joining == _CURRENT else self._batches[joining]
        # Rows of later batches, and in the end rows that are not in use, hold what the first row holds.
        index = np.zeros(size, np.int64)
        ordered = list(sources)
        for slot, (batch, row) in enumerate(sources):
            if batch == _CURRENT:
                index[slot] = row
            elif batch == joining:
                index[slot] = current[0].rows + row
            else:
                continue
            ordered[slot] = (_CURRENT, slot)
        index[len(sources) :] = index[0]
        return self._order(current, joined, index), ordered


def device_slots(
    capacity: int,
    state: Sequence[DeviceTensor],
    features: Sequence[DeviceTensor],
    order_state: OrderRows,
    order_features: OrderRows | None,
) -> Slots[T, DeviceTensor]:
    """Return slots on a device.

    Args:
        capacity: Rows.
        state: One row [1, ...] of each state, of any values.
        features: Likewise for each feature; may be empty.
        order_state: Puts rows of states in order.
        order_features: Puts rows of features in order; None if there are none.
    """
    ordered: Rows[Any] = DeviceRows(capacity, features, order_features) if order_features else HostRows(capacity, [])
    return Slots(capacity, DeviceRows(capacity, state, order_state), ordered)
