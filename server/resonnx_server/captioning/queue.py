"""A captioner's queue, which knows what all in it, or reserved while pictures are decoded, ask of the decoder.

Sums are kept as captions come and go: what a prediction costs does not grow with what waits. Pure.
"""

from typing import Any

from resonnx_server.captioning.demand import NOTHING, Demand
from resonnx_server.captioning.request import CaptionTask
from resonnx_server.captioning.schedule import demand_of
from resonnx_server.scheduling.batcher import PRIORITY_LEVELS, Batch, Batcher, Entry
from resonnx_server.scheduling.reservation import QueueReservation


class CaptionQueue(Batcher[CaptionTask]):
    """A batcher of pictures whose captions' demands are summed by priority. Args: see Batcher."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._demands = [NOTHING] * PRIORITY_LEVELS

    def demand_before(self, priority: int) -> Demand:
        """Return what captions ask that wait, or are reserved, and go before one of this priority that came now."""
        return sum(self._demands[:priority], NOTHING)

    def count(self, demand: Demand, priority: int) -> None:
        """Add a demand to those that wait."""
        self._demands[priority - 1] += demand

    def push(self, entries: list[Entry[CaptionTask]]) -> None:
        """See Batcher."""
        super().push(entries)
        for entry in entries:
            self.count(demand_of([entry.payload]), entry.priority)

    def discard(self, entry: Entry[CaptionTask]) -> bool:
        """See Batcher."""
        was_waiting = super().discard(entry)
        if was_waiting:
            self._gone([entry])
        return was_waiting

    def take(self, now_ns: int, limit: int | None = None, budget_ns: float | None = None) -> Batch[CaptionTask]:
        """See Batcher."""
        batch = super().take(now_ns, limit, budget_ns)
        self._gone([*batch.entries, *batch.expired])
        return batch

    def clear(self) -> list[Entry[CaptionTask]]:
        """See Batcher."""
        entries = super().clear()
        self._gone(entries)
        return entries

    def _gone(self, entries: list[Entry[CaptionTask]]) -> None:
        # A task that waits asks what it asked when it came.
        for entry in entries:
            self.count(-demand_of([entry.payload]), entry.priority)


class CaptionReservation(QueueReservation):
    """A place whose captions are expected to ask `each` of the decoder. Other args: see QueueReservation.

    Of a request of many pictures others wait for no more than a batch, as with its rows (see ExpectedRows).
    """

    __slots__ = ("_captions", "_captions_queue", "_each", "_priority")

    def __init__(self, queue: CaptionQueue, *args: Any, each: Demand, **settings: Any) -> None:
        super().__init__(queue, *args, **settings)
        self._captions_queue, self._each = queue, each
        self._priority: int = settings["priority"]
        self._captions = min(settings["rows"], queue.table.largest)
        queue.count(each * self._captions, self._priority)

    def arrive(self, rows: int) -> None:
        """See QueueReservation."""
        super().arrive(rows)
        gone = min(rows, self._captions)
        self._captions -= gone
        self._captions_queue.count(-(self._each * gone), self._priority)
