"""Which session a lone batch runs on, by what batches took lately."""

from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, InstanceGroup, SessionPool

from ..waiting import Clock


def _group(clock: Clock) -> AnyInstanceGroup:
    """Sessions of which that for latency takes half as long, if nothing else runs."""
    return InstanceGroup(
        SessionPool(lambda: None, LatencyTable({1: 100.0}, clock=clock)),
        SessionPool(lambda: None, LatencyTable({1: 200.0}, clock=clock)),
        max_concurrent_batches=2,
    )


def test_one_batch_alone_runs_on_the_session_that_was_faster_lately() -> None:
    group = _group(Clock())
    assert group.pick(1, is_alone=False) is group.throughput_session
    assert group.pick(1, is_alone=True) is group.latency_session
    for _ in range(50):
        group.latency_session.table.record(1, 1000)
    assert group.pick(1, is_alone=True) is group.throughput_session


def test_a_session_that_became_slow_is_tried_again_but_rarely() -> None:
    clock = Clock()
    group = _group(clock)
    picks = []
    for number in range(60_000):
        clock.ns += 10_000_000
        pool = group.pick(1, is_alone=True)
        is_slow = number < 30_000
        picks.append(pool is group.latency_session)
        pool.table.record(1, (1000 if is_slow else 100) if picks[-1] else 200)
    assert sum(picks[:30_000]) < 300, "one in a hundred, while it is slow"
    assert all(picks[-27_000:]), "half a minute after it is fast again"
