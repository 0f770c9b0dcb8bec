"""A captioner's queue, which sums what its captions ask of the decoder, reserved or waiting.

Sums are kept as captions come and go, so a prediction costs the same however long the queue is.
"""

from typing import Any

from resonnx_server.captioning.demand import NOTHING, Demand
from resonnx_server.captioning.request import CaptionTask
from resonnx_server.captioning.schedule import demand_of
from resonnx_server.scheduling.batcher import PRIORITY_LEVELS, Batcher, Entry, QueueReservation


class CaptionQueue(Batcher[CaptionTask]):
    """A batcher of pictures whose captions' demands are summed by priority. Args: see Batcher."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._demands = [NOTHING] * PRIORITY_LEVELS

    def demand_before(self, priority: int) -> Demand:
        """Return the demand of captions that precede a new request of this priority."""
        return sum(self._demands[:priority], NOTHING)

    def _count_waiting(self, entry: Entry[CaptionTask], rows: int) -> None:
        super()._count_waiting(entry, rows)
        # The demand of a waiting caption does not change.
        self._demands[entry.priority - 1] += demand_of([entry.payload]) * rows

    def _count_reserved(self, reservation: QueueReservation, room: int, ahead: int) -> None:
        super()._count_reserved(reservation, room, ahead)
        self._demands[reservation.priority - 1] += reservation.row_demand * ahead
