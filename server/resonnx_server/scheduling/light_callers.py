"""Bounds batches for the sake of callers with little work beside one with much. Pure; guarded by the device's lock.

A batch is not interrupted, so a caller's few rows wait for the end of the one that runs, and for that of their own.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from resonnx_server.scheduling.entries import Entry
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.sharing import Turns

T = TypeVar("T", bound=Any)

# A caller whose work was all taken is expected to come back within this time.
_COMES_BACK_NS: Final = 250_000_000
# Longest batch of one caller's work meanwhile, as a multiple of the shortest batch.
_MOST_BESIDE: Final = 4
# Longest batch that others' rows join, as a multiple of the batch without them.
_MOST_JOINED: Final = 2


class LightCallers:
    """Callers whose work was all taken lately.

    Args:
        table: Costs of batches.
    """

    __slots__ = ("_seen", "_table")

    def __init__(self, table: LatencyTable) -> None:
        self._table = table
        # The last two, latest first, and when their last rows were taken.
        self._seen: list[tuple[str, int]] = []

    def most_rows(self, entries: Sequence[Entry[T]], turns: Turns[Entry[T]], now_ns: int) -> int:
        """Return the most rows of the next batch.

        Where all sizes take about as long, as on a GPU, these are the rows of a full batch.

        Args:
            entries: Those that would fill it, in order.
            turns: Of the first entry's priority.
            now_ns: Monotonic time.
        """
        table, taken, light = self._table, dict[str, int](), set[str]()
        rows = last = 0
        for entry in entries:
            rows += entry.rows
            count = taken[entry.caller] = taken.get(entry.caller, 0) + 1
            if count == turns.waiting(entry.caller) and rows <= table.largest:
                light.add(entry.caller)
                last = rows
        if light:
            return table.largest if len(light) == len(taken) else self._within(_MOST_JOINED, last)
        if any(now_ns - at_ns < _COMES_BACK_NS and not turns.waiting(caller) for caller, at_ns in self._seen):
            return self._within(_MOST_BESIDE, 1)
        return table.largest

    def _within(self, times: int, rows: int) -> int:
        """Return the rows of the largest batch that takes at most so many times as long as one of `rows`."""
        table = self._table
        most_ns = times * table.cost_ns(table.padded_batch_size(rows))
        return max(size for size in table.sizes if size <= rows or table.cost_ns(size) <= most_ns)

    def taken(self, caller: str, now_ns: int) -> None:
        """Note that the last work of `caller` was taken."""
        self._seen = [(caller, now_ns), *(seen for seen in self._seen if seen[0] != caller)][:2]
