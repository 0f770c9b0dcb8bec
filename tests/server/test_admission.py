"""Refusing on arrival: what is predicted, what is learnt from it, and room that is kept while pictures are decoded."""

import asyncio
import random
from contextlib import suppress

import pytest
from resonnx_server.engine.admission import DeadlineAdmission, Objective
from resonnx_server.engine.batcher import Batcher, Entry
from resonnx_server.engine.device import Device
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.place import Place
from resonnx_server.errors import BadImage, DeadlineExceeded, DeadlineUnreachable, Overloaded

from .waiting import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(clock: Clock):
    device = Device("test", 1, clock)
    yield device
    device.close()


def test_the_wait_is_compared_with_deadline_and_shed_objective(device: Device) -> None:
    plain = DeadlineAdmission(device, Objective(1000))
    assert plain.has_limit(5)
    assert not plain.has_limit(None)
    plain.check(900, deadline_ns=1000)
    with pytest.raises(DeadlineUnreachable):
        plain.check(1100, deadline_ns=1000)
    with pytest.raises(DeadlineUnreachable):
        plain.check(100, deadline_ns=1000, decoding_ns=1100)
    shedding = DeadlineAdmission(device, Objective(500, shed=True))
    assert shedding.has_limit(None)
    with pytest.raises(DeadlineUnreachable):
        shedding.check(900, deadline_ns=1000)


@pytest.mark.parametrize("slower", [0.6, 1.0, 1.7, 3.0])
def test_nine_of_ten_at_the_limit_are_in_time_whatever_predictions_are_worth(
    device: Device, clock: Clock, slower: float
) -> None:
    """Requests take `slower` times what is predicted, give or take a third."""
    admission, picks = DeadlineAdmission(device, None), random.Random(1)
    in_time = []
    for number in range(6000):
        clock.ns += 10_000_000
        arrival, expected = clock.ns, picks.uniform(0.0, 1.2) * 100e6
        try:
            prediction = admission.check(expected, arrival + 100_000_000)
        except DeadlineUnreachable:
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


def _place(device: Device, queue: Batcher[int], rows: int = 1, deadline_ns: int | None = None) -> Place:
    with device.lock:
        wait_ns = queue.wait_ns(rows, priority=4)
        return Place(
            queue,
            device,
            DeadlineAdmission(device, None),
            rows=rows,
            priority=4,
            wait_ns=wait_ns,
            deadline_ns=deadline_ns,
            decoding_ns=0.0,
        )


def test_room_is_kept_for_what_is_being_decoded_and_others_wait_for_it(device: Device) -> None:
    queue: Batcher[int] = Batcher(LatencyTable({1: 100.0, 2: 200.0}), max_queue_rows=8)
    with _place(device, queue, 2) as place:
        assert queue.wait_ns(1, priority=4) == 300
        assert queue.wait_ns(1, priority=3) == 100
        with pytest.raises(Overloaded, match="the queue holds 2 rows"):
            _place(device, queue, 7)
        with _place(device, queue, 2), pytest.raises(Overloaded, match="to be decoded hold 4 rows"):
            _place(device, queue, 2)
        with pytest.raises(DeadlineUnreachable):
            _place(device, queue, 1, deadline_ns=250)
        place.arrive(2)
        queue.push([Entry(0, 2, 0)])
        assert (queue.rows, queue.expected_rows) == (2, 0)
    assert (queue.rows, queue.expected_rows) == (2, 0)


_ENDS = [None, BadImage("image", "no picture"), asyncio.CancelledError(), DeadlineExceeded("late")]


@pytest.mark.parametrize("error", _ENDS)
def test_room_is_given_back_however_it_ends(device: Device, error: BaseException | None) -> None:
    queue: Batcher[int] = Batcher(LatencyTable({1: 100.0}), max_queue_rows=3)
    with suppress(*map(type, filter(None, _ENDS))), _place(device, queue, deadline_ns=1000):
        assert queue.expected_rows == 1
        if error is not None:
            raise error
    assert queue.expected_rows == 0


def test_a_table_that_refuses_everybody_is_forgotten(device: Device, clock: Clock) -> None:
    """Nobody who is refused could correct it."""
    table = LatencyTable({1: 1e6})
    for _ in range(100):
        table.record(1, 4_000_000)
    admission = DeadlineAdmission(device, None, (table,))
    with pytest.raises(DeadlineUnreachable):
        admission.check(table.cost_ns(1), clock.ns + 2_000_000)
    clock.ns += 20_000_000_000
    with pytest.raises(DeadlineUnreachable):
        admission.check(4e6, clock.ns + 2_000_000)
    admission.check(table.cost_ns(1), clock.ns + 2_000_000)
