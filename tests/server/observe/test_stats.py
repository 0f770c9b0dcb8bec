"""What is counted of a request and of a batch: stages that add up, objectives, and how good predictions were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe.stats import BatchCount, Dispatch, ModelStats, StepCount, Timing

NS = st.integers(0, 10**10)


@given(st.lists(st.tuples(NS, NS, NS, NS, NS, NS, NS, NS), min_size=1, max_size=5))
def test_the_stages_of_requests_are_their_time(requests: list[tuple[int, ...]]) -> None:
    stats, whole = ModelStats(), 0
    for admission, decode, queue, given_, run, output, between, answer in requests:
        start = 10**12
        begun = start + admission + decode + queue
        timing = Timing(queue, given_, run, output, 1, begun, between)
        stats.request_done(timing, start, timing.end_ns + answer, decode)
        whole += timing.end_ns + answer - start
    stages_ns = stats.admission_ns + stats.between_ns + stats.answer_ns
    stages_s = stats.decode_seconds.sum + stats.queue_seconds.sum + stats.compute_seconds.sum
    assert stages_ns / 1e9 + stages_s == pytest.approx(whole / 1e9)
    assert stats.request_seconds.sum == pytest.approx(whole / 1e9)
    assert min(stats.admission_ns, stats.between_ns, stats.answer_ns) >= 0


def test_an_objective_is_met_or_missed() -> None:
    stats = ModelStats()
    stats.request_done(Timing(0, 0, 0, 0, 1), 0, 5)
    assert (stats.met, stats.missed) == (0, 0), "there is none"
    stats.objective_ns = 5
    for end_ns in (4, 5, 6):
        stats.request_done(Timing(0, 0, 0, 0, 1), 0, end_ns)
    assert (stats.met, stats.missed) == (2, 1)


def test_predicted_and_actual_times() -> None:
    stats = ModelStats()
    stats.batch_done(BatchCount(3, 4, 1, 100, 1, Dispatch.FULL, 80.0))
    stats.batch_done(BatchCount(1, 1, 1, 100, 1, Dispatch.IDLE, 120.0))
    stats.batch_done(BatchCount(1, 1, 1, 100, 1, Dispatch.IDLE))
    stats.step_done(StepCount(1, 1, 0, 10.0, 15))
    accuracy = stats.accuracy
    assert (accuracy.predicted_ns, accuracy.actual_ns, accuracy.error_ns) == (210, 215, 45)
    assert {reason: count for reason, count in stats.dispatched.items() if count} == {"full": 1, "idle": 2}
