"""Refusing on arrival: what is predicted, what is learnt from it, and room that is kept while pictures are decoded."""

import asyncio
import random
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import BadImage, DeadlineExceeded, DeadlineUnreachable, Overloaded, WaitTooLong
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import DeadlineAdmission, Decoding, Objective, Prediction
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue import Entry

from ..waiting import Clock
from .queues import batcher_of, wait_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(clock: Clock):
    device = Device("test", 1, clock)
    yield device
    device.close()


MS = 1_000_000


def test_who_asks_for_less_than_the_work_takes_is_told_so_and_who_waits_is_told_when_to_come_back(
    device: Device,
) -> None:
    admission = DeadlineAdmission(device, None)
    assert not admission.sheds
    admission.check(9 * MS, 10 * MS)
    with pytest.raises(DeadlineUnreachable, match="take 11 ms even on an idle device, and its deadline allows 10 ms"):
        admission.check(11 * MS, 10 * MS)
    admission.check(6 * MS, 10 * MS, ahead_ns=3 * MS)
    with pytest.raises(WaitTooLong, match=r"take 306 ms, with a wait of 300 ms, and its deadline allows 10 ms") as told:
        admission.check(6 * MS, 10 * MS, ahead_ns=300 * MS)
    assert told.value.retry_after_ms == 296, "by then it would wait no longer than it may"
    with pytest.raises(DeadlineUnreachable):
        admission.check(11 * MS, 10 * MS, ahead_ns=300 * MS)


def test_retry_hints_follow_the_wait_within_bounds(device: Device) -> None:
    def hint(ahead_ns: int) -> int:
        with pytest.raises(WaitTooLong) as told:
            DeadlineAdmission(device, None).check(6 * MS, 10 * MS, ahead_ns=ahead_ns)
        return told.value.retry_after_ms

    assert [hint(ns * MS) for ns in (5, 54, 1054, 3600_000)] == [20, 50, 1050, 2000]


def test_decoding_goes_on_while_the_device_works_off_the_queue_and_before_the_own_batch(device: Device) -> None:
    admission = DeadlineAdmission(device, None)
    alone = Decoding(6 * MS, 6 * MS)
    assert admission.check(3 * MS, 10 * MS, alone).expected_ns == 9 * MS
    with pytest.raises(DeadlineUnreachable, match="would take 11 ms even"):
        admission.check(5 * MS, 10 * MS, alone)
    assert admission.check(3 * MS, 10 * MS, alone, ahead_ns=6 * MS).expected_ns == 9 * MS
    assert admission.check(3 * MS, 10 * MS, alone, ahead_ns=7 * MS).expected_ns == 10 * MS
    with pytest.raises(WaitTooLong):
        admission.check(3 * MS, 10 * MS, alone, ahead_ns=8 * MS)
    with pytest.raises(WaitTooLong, match="would take 53 ms"):
        admission.check(3 * MS, 10 * MS, Decoding(50 * MS, 6 * MS))


def test_an_objective_to_shed_for_is_a_deadline_of_the_models_own(device: Device) -> None:
    shedding = DeadlineAdmission(device, Objective(5 * MS, shed=True))
    assert shedding.sheds
    with pytest.raises(DeadlineUnreachable, match="the model's objective is 5 ms"):
        shedding.check(6 * MS, None)
    with pytest.raises(WaitTooLong, match="the model's objective is 5 ms"):
        shedding.check(3 * MS, deadline_ns=10 * MS, ahead_ns=3 * MS)
    with pytest.raises(WaitTooLong, match="its deadline allows 4 ms"):
        shedding.check(3 * MS, deadline_ns=4 * MS, ahead_ns=3 * MS)
    assert not DeadlineAdmission(device, Objective(5 * MS)).sheds


@given(
    own_ms=st.floats(0.01, 100),
    ahead_ms=st.just(0.0) | st.floats(0.01, 1000),
    allowed_ms=st.floats(-1, 200),
    lesson=st.lists(st.booleans(), max_size=60),
)
def test_an_idle_device_never_sends_anybody_to_wait(
    own_ms: float, ahead_ms: float, allowed_ms: float, lesson: list[bool]
) -> None:
    """Whatever was learnt: of equal requests without a queue before them, none is told to come back."""
    with closing(Device("test", 1, Clock())) as device:
        admission = DeadlineAdmission(device, None)
        for too_late in lesson:
            with suppress(DeadlineUnreachable, WaitTooLong):
                admission.learn(admission.check(own_ms * MS, int(200 * MS), ahead_ns=1 * MS), too_late=too_late)
                admission.learn(admission.check(own_ms * MS, int(200 * MS)), too_late=too_late)
        try:
            admission.check(own_ms * MS, int(allowed_ms * MS), ahead_ns=ahead_ms * MS)
        except WaitTooLong:
            assert ahead_ms > 0.04 * own_ms
            assert own_ms <= allowed_ms * 2
            with suppress(DeadlineUnreachable):
                admission.check(own_ms * MS, int(allowed_ms * MS))
        except DeadlineUnreachable:
            with pytest.raises(DeadlineUnreachable):
                admission.check(own_ms * MS, int(allowed_ms * MS))


def test_what_a_queue_taught_is_not_told_to_who_has_none_before_him(device: Device) -> None:
    admission = DeadlineAdmission(device, None)
    waits = admission.check(10 * MS, 100 * MS, ahead_ns=60 * MS)
    for _ in range(100):
        admission.learn(waits, too_late=True)
    with pytest.raises(WaitTooLong):
        admission.check(10 * MS, 100 * MS, ahead_ns=60 * MS)
    assert admission.check(95 * MS, 100 * MS).expected_ns == 95 * MS
    with pytest.raises(WaitTooLong):
        admission.check(50 * MS, 100 * MS, ahead_ns=10 * MS)


@pytest.mark.parametrize("ahead", [0.0, 0.7])
@pytest.mark.parametrize("slower", [0.6, 1.0, 1.7, 3.0])
def test_nine_of_ten_at_the_limit_are_in_time_whatever_predictions_are_worth(
    device: Device, clock: Clock, slower: float, ahead: float
) -> None:
    """Requests take `slower` times what is predicted, give or take a third, of which they wait a part."""
    admission, picks = DeadlineAdmission(device, None), random.Random(1)
    in_time = []
    for number in range(6000):
        clock.ns += 10_000_000
        arrival, expected = clock.ns, picks.uniform(0.0, 1.2) * 100e6
        try:
            prediction = admission.check(expected * (1 - ahead), arrival + 100_000_000, ahead_ns=expected * ahead)
        except (DeadlineUnreachable, WaitTooLong):
            continue
        taken = expected * slower * picks.uniform(0.67, 1.33)
        clock.ns = arrival + int(min(taken, 100e6))
        admission.learn(prediction, too_late=taken > 100e6)
        clock.ns = arrival
        if number > 1000 and expected * slower > 70e6:
            in_time.append(taken <= 100e6)
    assert len(in_time) > 50, "the limit is not so low that few are let in"
    assert sum(in_time) / len(in_time) > 0.8


def test_caution_that_lets_nobody_in_fades(device: Device, clock: Clock) -> None:
    admission = DeadlineAdmission(device, None)
    prediction = admission.check(80e6, deadline_ns=100_000_000)
    for _ in range(10):
        admission.learn(prediction, too_late=True)
    with pytest.raises(DeadlineUnreachable):
        admission.check(80e6, deadline_ns=100_000_000)
    clock.ns = 60_000_000_000
    admission.check(80e6, clock.ns + 100_000_000)


def test_caution_that_is_taught_does_not_fade_however_rare_requests_are(device: Device, clock: Clock) -> None:
    """One request in five seconds, each of which takes one and a half times what is predicted."""
    admission = DeadlineAdmission(device, None)
    for _ in range(400):
        arrival = clock.ns
        with suppress(DeadlineUnreachable):
            prediction = admission.check(60e6, arrival + 100_000_000)
            clock.ns = arrival + 90_000_000
            admission.learn(prediction, too_late=False)
        clock.ns = arrival + 5_000_000_000
    with pytest.raises(DeadlineUnreachable, match="even on an idle device"):
        admission.check(75e6, clock.ns + 100_000_000)


class Noting(DeadlineAdmission):
    """Notes what it is taught."""

    def __init__(self, device: Device) -> None:
        super().__init__(device, None)
        self.lessons: list[bool] = []

    def learn(self, prediction: Prediction, *, too_late: bool) -> None:
        self.lessons.append(too_late)


PICTURES = Decoding(0.0, 0.0)


def test_room_is_kept_for_what_is_being_decoded_and_others_wait_for_it() -> None:
    queue: Batcher[int] = batcher_of(LatencyTable({1: 100.0, 2: 200.0}), max_queue_rows=8)
    with queue.reserve(2, decoding=PICTURES) as reservation:
        assert wait_ns(queue, 1, priority=4) == 300
        assert wait_ns(queue, 1, priority=3) == 100
        with pytest.raises(Overloaded, match="the queue holds 2 rows"):
            queue.reserve(7, decoding=PICTURES)
        with queue.reserve(2, decoding=PICTURES), pytest.raises(Overloaded, match="to be decoded hold 4 rows"):
            queue.reserve(2, decoding=PICTURES)
        with pytest.raises(WaitTooLong):
            queue.reserve(1, 250, decoding=PICTURES)
        with pytest.raises(DeadlineUnreachable):
            queue.reserve(1, 90, decoding=PICTURES)
        queue.push(Entry(0, 2, 0), reservation)
        assert (queue.rows, queue.reserved_rows) == (2, 0)
    assert (queue.rows, queue.reserved_rows) == (2, 0)


_ENDS = [None, BadImage("image", "no picture"), asyncio.CancelledError(), DeadlineExceeded("late")]


@pytest.mark.parametrize("error", _ENDS)
def test_room_is_given_back_however_it_ends(error: BaseException | None) -> None:
    queue: Batcher[int] = batcher_of(LatencyTable({1: 100.0}), max_queue_rows=3)
    with suppress(*map(type, filter(None, _ENDS))), queue.reserve(1, 1000, decoding=PICTURES):
        assert queue.reserved_rows == 1
        if error is not None:
            raise error
    assert queue.reserved_rows == 0


@pytest.mark.parametrize(
    ("error", "after_ns", "lessons"),
    [
        (None, 500, [False]),
        (None, 5000, [False]),
        (asyncio.CancelledError(), 500, []),
        (asyncio.CancelledError(), 5000, [True]),
        (DeadlineExceeded("late"), 900, [True]),
        (DeadlineUnreachable("too little is left"), 500, [True]),
        (WaitTooLong("after its wait", 20), 500, [True]),
        (Overloaded("the queue is full", 20), 500, []),
        (BadImage("image", "no picture"), 500, []),
        (BadImage("image", "no picture"), 5000, []),
    ],
)
def test_what_a_requests_end_teaches(
    device: Device, clock: Clock, error: BaseException | None, after_ns: int, lessons: list[bool]
) -> None:
    """Who left early, or sent what is no picture, tells nothing of the wait; time that ran out does."""
    queue: Batcher[int] = batcher_of(LatencyTable({1: 100.0}), max_queue_rows=3, clock=clock)
    admission = queue._admission = Noting(device)
    with suppress(asyncio.CancelledError, DeadlineExceeded, BadImage, Overloaded), queue.reserve(1, 1000):
        clock.ns = after_ns
        if error is not None:
            raise error
    assert admission.lessons == lessons


def test_a_table_that_refuses_everybody_is_forgotten(clock: Clock) -> None:
    """Nobody who is refused could correct it."""
    table = LatencyTable({1: 1e6}, clock=clock)
    for _ in range(100):
        table.record(1, 4_000_000)
    queue = batcher_of(table, clock=clock)
    for _ in range(2):
        with pytest.raises(DeadlineUnreachable):
            queue.reserve(1, clock.ns + 2_000_000)
        clock.ns += 5_000_000_000
    clock.ns += 10_000_000_000
    queue.reserve(1, clock.ns + 2_000_000)


def test_a_table_that_batches_confirm_is_kept_however_rarely_anybody_asks(clock: Clock) -> None:
    table = LatencyTable({1: 10e6, 2: 20e6, 4: 40e6}, clock=clock)
    queue = batcher_of(table, clock=clock)
    for _ in range(3000):
        clock.ns += 20_000_000
        table.record(1, 20_000_000)
    for _ in range(3):
        with pytest.raises(DeadlineUnreachable, match=r"would take 20 ms even .* its deadline allows 15 ms"):
            queue.reserve(1, clock.ns + 15_000_000)
        assert table.cost_ns(1) == pytest.approx(20e6, rel=0.01)
