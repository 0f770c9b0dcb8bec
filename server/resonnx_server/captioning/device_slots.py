"""Decode slots on a device: state and features of all captions under way stay where the decoder computes.

Who joins, branches or leaves is only written down, row by row. Before the next step the rows are put in order, by one
run of a graph that does nothing else (runtime/device_state.py) - if a row changed its place or the step its size.
States are ordered apart from features: beams change rows at every step, and share their picture's features.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from resonnx_server.captioning.rows import SlotRows, T
from resonnx_server.runtime.binding import DeviceTensor
from resonnx_server.runtime.session import Array

# Takes tensors [n, ...], others [m, ...] and int64 [R]; gives the rows [R, ...] of both that the last one names.
OrderRows = Callable[[Sequence[DeviceTensor], Sequence[DeviceTensor], Array], list[DeviceTensor]]

_CURRENT: Final = 0


class DeviceSlots(SlotRows[T, DeviceTensor]):
    """Rows on a device.

    At most four times the rows' bytes are in use at once: before they are put in order, while, and after.

    Args:
        capacity: Rows.
        state: One row [1, ...] of each state, whatever it holds.
        features: Likewise for each feature; may be empty.
        order_state: Puts rows of states in order.
        order_features: Likewise features; None where there are none.
    """

    def __init__(
        self,
        capacity: int,
        state: Sequence[DeviceTensor],
        features: Sequence[DeviceTensor],
        order_state: OrderRows,
        order_features: OrderRows | None,
    ) -> None:
        super().__init__(capacity)
        self._state = _Rows(capacity, state, order_state)
        self._features = _Rows(capacity, features, order_features) if order_features else None

    def inputs(self, size: int) -> tuple[Array, list[DeviceTensor], list[DeviceTensor]]:
        """See SlotRows; the tensors are whole, of `size` rows.

        Raises:
            Exception: ONNX Runtime's own; the rows are then as they were.
        """
        used = len(self)
        features = self._features.in_order(used, size) if self._features else []
        return self._tokens[:size], self._state.in_order(used, size), features

    def store(self, state: Sequence[DeviceTensor]) -> None:
        """See SlotRows; nothing is copied."""
        self._state.replace(state)

    def _gather(self, rows: Sequence[int]) -> tuple[list[DeviceTensor], list[DeviceTensor]]:
        return self._state.gather(rows), self._features.gather(rows) if self._features else []

    def _clear_from(self, row: int) -> None:
        # What is put in order has the first row in all behind those in use.
        self._state.is_ordered = False
        if self._features:
            self._features.is_ordered = False

    def _put_state(self, row: int, state: Sequence[DeviceTensor], source: int) -> None:
        self._state.put(row, state, source)

    def _put_features(self, row: int, features: Sequence[DeviceTensor], source: int) -> None:
        if self._features:
            self._features.put(row, features, source)

    def _copy_state(self, row: int, source: int) -> None:
        self._state.copy(row, source)

    def _copy_features(self, row: int, source: int) -> None:
        if self._features:
            self._features.copy(row, source)


class _Rows:
    """Tensors of all slots, and where each slot's row is until they are put in order.

    Args:
        capacity: Slots.
        blank: Tensors [1, ...] to begin with.
        order: See OrderRows.

    Attributes:
        is_ordered: The rows need not be put in order but for what was put or copied.
    """

    def __init__(self, capacity: int, blank: Sequence[DeviceTensor], order: OrderRows) -> None:
        self._blank, self._order = blank, order
        self.is_ordered = True
        # The rows as the last step had them, then the batches that others have theirs from since.
        self._batches: list[Sequence[DeviceTensor]] = [blank]
        # Of each slot: which of the batches, and which row of it.
        self._places = [(_CURRENT, 0)] * capacity

    def put(self, slot: int, batch: Sequence[DeviceTensor], row: int) -> None:
        """Let a slot have a row of another batch."""
        # Those of one batch bring the same list.
        number = next((i for i, known in enumerate(self._batches) if known is batch), len(self._batches))
        if number == len(self._batches):
            self._batches.append(batch)
        self._places[slot] = (number, row)

    def copy(self, slot: int, source: int) -> None:
        """Let a slot have what another has."""
        self._places[slot] = self._places[source]

    def replace(self, tensors: Sequence[DeviceTensor]) -> None:
        """Let every slot have its row of `tensors`, which has at least those in use."""
        self._batches = [tensors]
        self._places = [(_CURRENT, slot) for slot in range(len(self._places))]

    def in_order(self, used: int, size: int) -> list[DeviceTensor]:
        """Return tensors of `size` rows, the first `used` of which are the slots'."""
        current, places = self._batches[_CURRENT], self._places[:used]
        is_ordered = self.is_ordered and all(place == (_CURRENT, slot) for slot, place in enumerate(places))
        if current[0].rows != size or not is_ordered:
            current = self._merged(places, size)
        self.replace(current)
        self.is_ordered = True
        return list(current)

    def gather(self, slots: Sequence[int]) -> list[DeviceTensor]:
        """Return tensors of some slots' rows, in that order; the slots stay as they are."""
        return list(self._merged([self._places[slot] for slot in slots], len(slots)))

    def _merged(self, places: list[tuple[int, int]], size: int) -> Sequence[DeviceTensor]:
        """Return tensors of `size` rows, the first of which are those at `places`."""
        current = self._batches[_CURRENT]
        # Mostly nobody joined, or one batch did.
        for batch in sorted({batch for batch, _ in places} - {_CURRENT}) or [_CURRENT]:
            current, places = self._ordered(current, places, batch, size)
        return current

    def _ordered(
        self, current: Sequence[DeviceTensor], places: list[tuple[int, int]], joining: int, size: int
    ) -> tuple[list[DeviceTensor], list[tuple[int, int]]]:
        """Put in order what is in `current`, with those who are in one other batch (none if that is `_CURRENT`)."""
        # A graph's inputs cannot be empty everywhere: of nobody, one row that no slot has.
        joined = self._blank if joining == _CURRENT else self._batches[joining]
        # Rows of batches still to come hold whatever the first does, and so do, in the end, rows beyond those in use.
        index = np.zeros(size, np.int64)
        ordered = list(places)
        for slot, (batch, row) in enumerate(places):
            if batch == _CURRENT:
                index[slot] = row
            elif batch == joining:
                index[slot] = current[0].rows + row
            else:
                continue
            ordered[slot] = (_CURRENT, slot)
        index[len(places) :] = index[0]
        return self._order(current, joined, index), ordered
