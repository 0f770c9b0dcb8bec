"""Which job of a captioner could begin. Pure: jobs begin and end as the test says."""

import random
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.encode_policy import EncodePolicy
from resonnx_server.captioning.request import CaptionTask, Encoded
from resonnx_server.captioning.schedule import CaptionSchedule, demand_of
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to

CAPACITY, LARGEST = 12, 8
# A picture takes 15 ms, a step 1 ms: a pause of at most 25 ms is one picture.
POLICY = EncodePolicy(
    LatencyTable({size: 15e6 * size for size in sizes_up_to(LARGEST)}),
    LatencyTable(dict.fromkeys(sizes_up_to(CAPACITY), 1e6)),
)


def _schedule(instances: int) -> CaptionSchedule:
    return CaptionSchedule(POLICY, max_jobs=instances, capacity=CAPACITY, largest=LARGEST, mean_steps=10)


def _tasks(*widths: int, streams: bool = False) -> list[CaptionTask]:
    on_words = (lambda words: None) if streams else None
    tasks = [
        SimpleNamespace(search=SimpleNamespace(width=width), on_words=on_words, expected_steps=9, steps=0, turn=(4, ""))
        for width in widths
    ]
    return cast(list[CaptionTask], tasks)


def _encoded(tasks: list[CaptionTask]) -> list[Encoded]:
    return [Encoded(task, [], [], row) for row, task in enumerate(tasks)]


def _decoding(schedule: CaptionSchedule, tasks: list[CaptionTask]) -> None:
    """Have captions under way, and no job."""
    schedule.begin_encoding(tasks, has_all_cores=False)
    schedule.end_encoding(tasks, _encoded(tasks))
    schedule.begin_step()
    schedule.end_step(tasks)


def test_only_those_with_room_are_encoded_and_join() -> None:
    schedule = _schedule(3)
    assert schedule.fitting(_tasks(5, 5, 1, 1, 1)) == 4
    assert schedule.fitting(_tasks(*[1] * 20)) == LARGEST
    _decoding(schedule, _tasks(4))
    encoding = _tasks(3)
    schedule.begin_encoding(encoding, has_all_cores=False)
    assert schedule.demand.rows == 7
    assert schedule.fitting(_tasks(5, 1)) == 1
    assert schedule.fitting(_tasks(6, 1)) == 0, "no picture overtakes the head of the queue"


def test_lanes_that_could_begin_share_what_waits() -> None:
    schedule = _schedule(4)
    assert schedule.to_encode(7, idle_lanes=4) == 2
    assert schedule.to_encode(7, idle_lanes=1) == 7
    schedule.begin_encoding(_tasks(1), has_all_cores=False)
    assert schedule.to_encode(7, idle_lanes=8) == 3, "three more jobs"
    assert schedule.to_encode(0, idle_lanes=8) == 0


def test_a_job_with_all_cores_has_no_company() -> None:
    schedule = _schedule(2)
    tasks = _tasks(1)
    schedule.begin_encoding(tasks, has_all_cores=True)
    assert not schedule.can_begin
    schedule.end_encoding(tasks, _encoded(tasks))
    assert schedule.can_begin
    assert schedule.can_step


@pytest.mark.parametrize("streams", [True, False])
def test_streamed_words_pause_shortly_and_only_if_no_other_lane_would_step(streams: bool) -> None:
    schedule = _schedule(2)
    _decoding(schedule, _tasks(1, streams=streams))
    assert schedule.to_encode(6, idle_lanes=2) == 6
    assert schedule.to_encode(6, idle_lanes=1) == (1 if streams else 6)


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_any_jobs_leave_slots_as_they_are_counted(instances: int, seed: int) -> None:
    """Jobs begin and end in any order; rows are never more than there are, and all are free in the end."""
    rng = random.Random(seed)
    schedule = _schedule(instances)
    waiting = _tasks(*(rng.randrange(1, 6) for _ in range(30)))
    encoding: list[list[CaptionTask]] = []
    active: list[CaptionTask] = []
    stepping = False
    for _ in range(2000):
        if schedule.can_begin and rng.random() < 0.7:
            pictures = schedule.to_encode(schedule.fitting(waiting), instances - len(encoding) - stepping)
            if pictures:
                tasks, waiting = waiting[:pictures], waiting[pictures:]
                encoding.append(tasks)
                schedule.begin_encoding(tasks, has_all_cores=False)
            elif schedule.can_step:
                active += [encoded.task for encoded in schedule.begin_step()]
                stepping = True
        elif stepping and rng.random() < 0.5:
            active = [task for task in active if rng.random() < 0.8]
            schedule.end_step(active)
            stepping = False
        elif encoding:
            tasks = encoding.pop(rng.randrange(len(encoding)))
            schedule.end_encoding(tasks, _encoded(tasks))
        assert len(encoding) + stepping <= instances
        assert demand_of(active).rows <= schedule.demand.rows <= CAPACITY
        if not (waiting or encoding or active or stepping or schedule.joining):
            break
    assert not waiting
    assert schedule.is_idle
    assert schedule.demand.rows == 0
    assert not schedule.decodes
