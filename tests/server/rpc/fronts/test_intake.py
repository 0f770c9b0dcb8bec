"""Calls whose messages do not come are ended: those of the caller with the most first, and after a time."""

import time
from dataclasses import dataclass, field
from unittest.mock import Mock

import grpc
import pytest
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.rpc.fronts.buffer import CALL_BYTES, MessageBuffer
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected


@dataclass(eq=False)
class Waiting:
    """A call that waits for a message."""

    name: str
    has_begun: bool = False
    resumed: int = 0
    ended: list[Rejected] = field(default_factory=list)

    def evict(self, refusal: Rejected) -> None:
        self.ended.append(refusal)

    def resume(self) -> None:
        self.resumed += 1


def test_a_quarter_of_the_calls_ends_of_the_caller_with_the_most_longest_first() -> None:
    intake, now = Intake(), time.monotonic()
    many, one = [Waiting("many") for _ in range(8)], Waiting("one")
    intake.receiving = {one: now - 60, **{call: now - 30 + i for i, call in enumerate(many)}}
    assert intake.evict() == 3
    assert [bool(call.ended) for call in many] == [True, True, True, *[False] * 5]
    assert not one.ended
    assert many[0].ended[0].status[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(intake.receiving) == 6


def test_a_quarter_of_the_calls_ends_where_each_caller_has_one() -> None:
    """To end a single call at a time would not keep up with what the others bring meanwhile."""
    intake, now = Intake(), time.monotonic()
    calls = [Waiting(f"caller {i}") for i in range(24)]
    intake.receiving = {call: now - 30 + i for i, call in enumerate(calls)}
    assert intake.evict() == 6
    assert [bool(call.ended) for call in calls] == [*[True] * 6, *[False] * 18]


def test_a_caller_loses_calls_until_it_has_no_more_than_others() -> None:
    intake, now = Intake(), time.monotonic()
    three, two = [Waiting("three") for _ in range(3)], [Waiting("two") for _ in range(2)]
    # Of five calls two end: the first of three, then the oldest of callers with two.
    intake.receiving = {**{call: now - 10 + i for i, call in enumerate(three)}, **dict.fromkeys(two, now - 20)}
    assert intake.evict() == 2
    assert [bool(call.ended) for call in three] == [True, False, False]
    assert [bool(call.ended) for call in two] == [True, False]


@dataclass(eq=False)
class Unread:
    """A call whose answer is sent."""

    name: str
    is_stream: bool = False
    cuts: int = 0

    def cut(self) -> None:
        self.cuts += 1


def test_where_memory_is_spent_the_caller_with_the_most_makes_room_for_one_that_has_less() -> None:
    budget, now = Budget(800 * CALL_BYTES), time.monotonic()
    intake = Intake(budget, max_receive_s=1000, max_stream_idle_s=1000)
    budget.charge("many", 500 * CALL_BYTES)
    budget.charge("few", 275 * CALL_BYTES, held=True)
    calls = [Waiting("many") for _ in range(4)]
    other = Waiting("few")
    unread, read, others = Unread("many"), Unread("many"), Unread("few")
    intake.receiving = {other: now - 60, **{call: now - 30 + i for i, call in enumerate(calls)}}
    intake.sending = {unread: now - 11, read: now - 9, others: now - 60}
    with pytest.raises(Rejected):
        intake.charge(Charge(budget, "many"))
    assert not any(call.ended for call in calls), "it has more than an equal part"
    with pytest.raises(Rejected):
        intake.charge(Charge(budget, "new"))
    assert [len(call.ended) for call in (*calls, other)] == [1, 0, 0, 0, 0]
    assert [each.cuts for each in (unread, read, others)] == [1, 0, 0]
    with pytest.raises(Rejected):
        intake.charge(Charge(budget, "new"))
    assert sum(len(call.ended) for call in calls) == 1, "at most so often"


def test_messages_that_have_just_begun_are_spared() -> None:
    intake, call = Intake(), Waiting("a")
    intake.await_message(call)
    assert intake.evict() == 0
    assert not call.ended


def test_a_request_has_a_time_limit_and_a_streams_next_message_has_none() -> None:
    intake, now = Intake(max_receive_s=10), time.monotonic()
    slow, fast, stream = Waiting("a"), Waiting("a"), Waiting("a", has_begun=True)
    intake.receiving = {slow: now - 11, fast: now - 9, stream: now - 1000}
    intake.tick(now)
    assert [bool(call.ended) for call in (slow, fast, stream)] == [True, False, False]
    assert slow.ended[0].status[1] == "the request was not complete within 10 s"


def test_streams_that_bring_nothing_more_and_readers_that_take_nothing_are_ended() -> None:
    intake, now = Intake(max_receive_s=10, max_stream_idle_s=100), time.monotonic()
    half_open, idle, fresh = Waiting("a"), Waiting("a", has_begun=True), Waiting("a", has_begun=True)
    unread, read = Mock(is_stream=True), Mock(is_stream=True)
    intake.receiving = {half_open: now - 11, idle: now - 101, fresh: now - 99}
    intake.sending = {unread: now - 101, read: now - 99}
    intake.tick(now)
    assert [bool(call.ended) for call in (half_open, idle, fresh)] == [True, True, False]
    assert idle.ended[0].status[1] == "the stream brought no message for 100 s (max_stream_idle_s)"
    assert not read.cut.called
    intake.tick(now + 2)
    assert unread.cut.call_count == 1


def test_a_unary_answer_is_read_in_the_time_of_a_request_and_a_streams_in_its_own() -> None:
    intake, now = Intake(max_receive_s=10), time.monotonic()
    unread, read, stream = Unread("a"), Unread("a"), Unread("a", is_stream=True)
    intake.sending = {unread: now - 11, read: now - 9, stream: now - 1000}
    intake.tick(now)
    assert [each.cuts for each in (unread, read, stream)] == [1, 0, 0]


def test_a_stream_waits_for_room_and_is_ended_if_there_is_none_for_long() -> None:
    budget, now = Budget(8 * CALL_BYTES), time.monotonic()
    intake, stream = Intake(budget, max_receive_s=10), Waiting("a", has_begun=True)
    assert intake.may_receive(stream)
    spent = budget.charge("b", 7 * CALL_BYTES)
    assert not intake.may_receive(stream)
    intake.tick(now)
    assert (stream.resumed, stream.ended) == (0, [])
    spent.release()
    intake.tick(now + 1)
    assert stream.resumed == 1
    spent = budget.charge("b", 7 * CALL_BYTES)
    assert not intake.may_receive(stream)
    intake.tick(now + 20)
    assert len(stream.ended) == 1


def test_a_new_call_is_refused_where_the_budget_is_spent() -> None:
    budget = Budget(8 * CALL_BYTES)
    budget.charge("b", 7 * CALL_BYTES)
    with pytest.raises(Rejected, match="requests hold"):
        Intake(budget).charge(Charge(budget, "a"))


def test_a_buffer_charges_what_it_holds_and_what_is_being_sent() -> None:
    budget = Budget(1 << 20)
    buffer = MessageBuffer(Charge(budget, "a"), are_answers=True)
    buffer.push(bytes(100))
    assert budget.used == 0, "little: the call is charged as much anyway"
    buffer.push(bytes(100_000))
    assert budget.used == 100_100
    assert len(buffer.pop_to_send()) == 100
    assert len(buffer.pop_to_send()) == 100_000
    assert (budget.used, len(buffer)) == (100_000, 0)
    buffer.push(bytes(200_000))
    buffer.clear()
    assert budget.used == 100_000
    buffer.sent()
    assert budget.used == 0
