"""Limits of waiting by priority: how many requests, how long, and what happens then."""

import pytest
from resonnx_server.errors import Overloaded, WaitTooLong
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry
from resonnx_server.scheduling.queue_policy import QueuePolicies, QueuePolicy

from .queues import batcher_of

MS = 1_000_000


def _batcher(policies: QueuePolicies) -> Batcher[str]:
    return batcher_of(LatencyTable({1: 1e6, 4: 2e6}), max_queue_rows=40, policies=policies)


def _push(
    batcher: Batcher[str], name: str, at_ns: int = 0, priority: int = 4, rows: int = 1, max_wait_ns: int = 0
) -> Entry[str]:
    entry = Entry(name, rows, at_ns, priority=priority)
    with batcher.reserve(rows, priority=priority) as reservation:
        reservation.max_wait_ns = max_wait_ns
        batcher.push(entry, reservation)
    return entry


def _names(entries: list[Entry[str]]) -> list[str]:
    return [entry.payload for entry in entries]


def test_a_request_that_has_waited_too_long_is_refused() -> None:
    batcher = _batcher(QueuePolicies(default=QueuePolicy(10 * MS)))
    _push(batcher, "old")
    _push(batcher, "young", 5 * MS)
    batch = batcher.take(10 * MS)
    assert (_names(batch.entries), _names(batch.expired)) == (["young"], ["old"])
    error = batcher.lateness(batch.expired[0], 10 * MS)
    assert isinstance(error, WaitTooLong)
    assert "the request has waited 10 ms; it may wait 10 ms (queue_timeout_us)" in error.message
    assert len(batcher) == batcher.rows == 0


def test_one_whose_wait_is_not_over_is_served() -> None:
    batcher = _batcher(QueuePolicies(default=QueuePolicy(10 * MS)))
    _push(batcher, "old")
    batch = batcher.take(10 * MS - 1)
    assert (_names(batch.entries), batch.expired) == (["old"], [])
    # Its timeout finds it served.
    assert batcher.take(20 * MS).expired == []


def test_a_delayed_request_goes_behind_those_of_its_priority_and_is_served() -> None:
    batcher = _batcher(QueuePolicies(default=QueuePolicy(10 * MS, delays=True)))
    for name, at in (("a", 0), ("b", 1), ("c", 9 * MS)):
        _push(batcher, name, at)
    _push(batcher, "later priority", 0, priority=5)
    taken = []
    while batcher.rows:
        batch = batcher.take(11 * MS, limit=1)
        assert batch.expired == []
        taken += _names(batch.entries)
    assert taken == ["c", "a", "b", "later priority"]
    # Whose rows are counted as before.
    assert (batcher.rows, batcher._held) == (0, {})


def test_priorities_have_policies_of_their_own() -> None:
    policies = QueuePolicies(default=QueuePolicy(10 * MS), by_priority={1: QueuePolicy(), 2: QueuePolicy(5 * MS)})
    batcher = _batcher(policies)
    for priority in (1, 2, 3):
        _push(batcher, str(priority), priority=priority)
    batch = batcher.take(7 * MS)
    assert (sorted(_names(batch.entries)), _names(batch.expired)) == (["1", "3"], ["2"])


def test_a_request_may_shorten_its_wait_if_its_policy_allows_it() -> None:
    open_, closed = QueuePolicy(10 * MS, allow_timeout_override=True), QueuePolicy(10 * MS)
    assert [open_.wait_ns(us) for us in (0, 5_000, 10_000, 20_000)] == [10 * MS, 5 * MS, 10 * MS, 10 * MS]
    assert closed.wait_ns(5_000) == 10 * MS
    # As in Triton: a request cannot set what the model has not.
    assert QueuePolicy(allow_timeout_override=True).wait_ns(5_000) == 0
    batcher = _batcher(QueuePolicies(default=open_))
    _push(batcher, "patient")
    _push(batcher, "hasty", max_wait_ns=5 * MS)
    assert _names(batcher.take(6 * MS).expired) == ["hasty"]


def test_a_request_of_which_rows_run_is_served_whole() -> None:
    batcher = _batcher(QueuePolicies(default=QueuePolicy(10 * MS)))
    _push(batcher, "large", rows=6)
    assert batcher.take(1).rows == 4
    batch = batcher.take(20 * MS)
    assert (batch.rows, batch.expired) == (2, [])


def test_no_more_requests_of_a_priority_wait_than_may() -> None:
    batcher = _batcher(QueuePolicies(default=QueuePolicy(max_requests=2), by_priority={1: QueuePolicy()}))
    for _ in range(2):
        _push(batcher, "a", rows=3)
    with pytest.raises(Overloaded, match="the queue of priority 4 holds 2 requests and may hold 2"):
        batcher.reserve(1)
    _push(batcher, "b", priority=3)
    for _ in range(5):
        _push(batcher, "c", priority=1)
    batcher.take(0)
    batcher.take(0)
    batcher.take(0)
    _push(batcher, "d")


@pytest.mark.parametrize(
    ("levels", "asked", "best", "expected"),
    [
        (None, 0, 1, 2),
        (None, 7, 1, 7),
        (3, 3, 1, 3),
        # As in Triton: a priority that there is not is the default.
        (3, 4, 1, 2),
        (3, 0, 1, 2),
        (0, 1, 1, 2),
        # A caller does not get a better one than it may have by asking for none.
        (3, 0, 4, 4),
        (3, 1, 4, 1),
    ],
)
def test_priorities_that_there_are_not_are_the_default(
    levels: int | None, asked: int, best: int, expected: int
) -> None:
    assert QueuePolicies(levels, default_priority=2).priority(asked, best) == expected
