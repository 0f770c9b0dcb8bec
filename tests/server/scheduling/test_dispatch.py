"""Why a batch began is told as it was decided."""

import pytest
from resonnx_server.observe.stats import Dispatch
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry

from .batch_costs import DEAR
from .queues import batcher_of, push

LARGEST = max(DEAR)


def _entries(rows: int, deadline_ns: int | None = None) -> list[Entry[int]]:
    return [Entry(i, 1, 100, deadline_ns) for i in range(rows)]


@pytest.mark.parametrize(
    ("rows", "deadline_ns", "expected"),
    [
        (LARGEST, None, Dispatch.FULL),
        (LARGEST + 3, None, Dispatch.FULL),
        (2, None, Dispatch.IDLE),
        (2, int(1e12), Dispatch.IDLE),
    ],
)
def test_full_or_idle(rows: int, deadline_ns: int | None, expected: Dispatch) -> None:
    batcher = batcher_of(LatencyTable(DEAR), 1000)
    push(batcher, *_entries(rows, deadline_ns))
    assert batcher.ready_at_ns() is not None
    assert batcher.take(200).dispatch is expected


def test_fewer_rows_than_wait_for_the_sake_of_a_deadline() -> None:
    batcher = batcher_of(LatencyTable(DEAR), 1000)
    push(batcher, *_entries(LARGEST - 1, deadline_ns=200 + int(DEAR[4])))
    batch = batcher.take(200)
    assert batch.rows < LARGEST - 1
    assert batch.dispatch is Dispatch.DEADLINE


@pytest.mark.parametrize(("objective_ns", "expected"), [(None, Dispatch.DELAY), (1000, Dispatch.DEADLINE)])
def test_the_longest_wait_or_the_objective_before_it(objective_ns: int | None, expected: Dispatch) -> None:
    batcher = batcher_of(LatencyTable(DEAR), 1000, max_delay_ns=10_000, objective_ns=objective_ns)
    push(batcher, *_entries(2))
    at = batcher.ready_at_ns()
    assert at is not None
    assert batcher.take(at).dispatch is expected


def test_too_few_rows_beside_another_batch_wait_until_they_would_be_late() -> None:
    batcher = batcher_of(LatencyTable(DEAR), 1000)
    push(batcher, *_entries(2))
    at = batcher.ready_at_ns(enough=4)
    assert at is not None
    assert batcher.take(at).dispatch is Dispatch.DEADLINE
    push(batcher, *_entries(2))
    batcher.ready_at_ns()
    assert batcher.take(at).dispatch is Dispatch.IDLE


def test_the_oldest_entry_is_known() -> None:
    batcher = batcher_of(LatencyTable(DEAR), 1000)
    assert batcher.oldest_ns() is None
    push(batcher, Entry(0, 1, 300, priority=1), Entry(1, 1, 200, priority=8))
    assert batcher.oldest_ns() == 200
