"""Batchers without threads, and entries that are queued in one go."""

from collections.abc import Callable
from typing import Any

from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool


def batcher_of(
    table: LatencyTable,
    max_queue_rows: int = 1000,
    max_delay_ns: int = 0,
    objective_ns: int | None = None,
    max_concurrent_batches: int = 1,
    clock: Callable[[], int] = lambda: 0,
    policies: QueuePolicies | None = None,
) -> Batcher[Any]:
    """Return a batcher whose device has an idle lane without a thread."""
    pool = SessionPool(lambda: None, table)
    sessions = InstanceGroup(pool, pool, max_concurrent_batches)
    objective = None if objective_ns is None else Objective(objective_ns)
    device = Device("test", 0, clock)
    device.lanes = 1
    return Batcher(device, sessions, max_queue_rows, max_delay_ns, objective, policies=policies)


def push(batcher: Batcher[Any], *entries: Entry[Any]) -> None:
    """Reserve room for each entry and queue it."""
    for entry in entries:
        batcher.push(entry, batcher.reserve(entry.rows, None, entry.priority, caller=entry.caller))


def wait_ns(batcher: Batcher[Any], rows: int, priority: int) -> float:
    """Return the expected time until a new request of `rows` would be done, once a lane is free."""
    return batcher.ahead_ns(priority) + batcher.own_ns(rows)
