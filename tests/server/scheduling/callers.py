"""A queue for tests of sharing, and callers that fill it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from resonnx_server.scheduling.batcher import Batch, Batcher
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.queue import Entry

from .queues import batcher_of

LARGEST = 16
ROW_NS = 1e6
LINEAR = {size: ROW_NS * size for size in sizes_up_to(LARGEST)}


def queue_of_callers(
    rows: int = 10_000, costs: dict[int, float] = LINEAR, clock: Callable[[], int] = lambda: 0
) -> Batcher[Any]:
    return batcher_of(LatencyTable(costs), rows, clock=clock)


def push(
    batcher: Batcher[Any], caller: str, rows: int = 1, priority: int = 4, shape: str = "", payload: object = None
) -> Entry[Any]:
    entry = Entry(payload, rows, 0, shape=shape, priority=priority, caller=caller)
    batcher.push(entry, batcher.reserve(rows, None, priority, caller=caller))
    return entry


def flood(batcher: Batcher[Any], caller: str, count: int, rows: int = 1, priority: int = 4) -> None:
    for _ in range(count):
        push(batcher, caller, rows, priority)


def rows_of(batch: Batch[Any]) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for entry in batch.entries:
        rows[entry.caller] += entry.rows
    return rows
