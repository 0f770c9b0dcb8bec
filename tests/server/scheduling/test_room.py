"""How much of a queue each caller has, and what is left of those who are gone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import Overloaded
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.queue import Entry

from ...conftest import examples
from .callers import ROW_NS, flood, push, queue_of_callers


def test_a_flood_fills_the_queue_and_others_still_find_room() -> None:
    batcher = queue_of_callers(40)
    flood(batcher, "flood", 40)
    with pytest.raises(Overloaded, match="holds 40 rows and may hold 40"):
        push(batcher, "flood")
    flood(batcher, "good", 20)
    with pytest.raises(Overloaded):
        push(batcher, "good")
    flood(batcher, "third", 13)
    with pytest.raises(Overloaded, match="holds 73 rows"):
        push(batcher, "third")
    for number in range(3):
        batcher.take(number * 10**9)

    flood(batcher, "third", 15)
    assert batcher.rows == 40
    with pytest.raises(Overloaded):
        push(batcher, "flood")


def test_many_callers_do_not_close_a_full_queue_to_another() -> None:
    """More than it has rows."""
    batcher = queue_of_callers(40)
    for number in range(200):
        push(batcher, f"{number}")
    with pytest.raises(Overloaded):
        push(batcher, "7")
    with pytest.raises(Overloaded):
        push(batcher, "good", 2)
    push(batcher, "good")


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30) | st.just(1), st.booleans()), max_size=150),
)
@examples(100)
def test_who_holds_less_than_an_equal_part_is_always_admitted(limit: int, steps: list[tuple[int, int, bool]]) -> None:
    """Each step is a request of a caller; before some of them, waiting rows are served."""
    batcher = queue_of_callers(limit)
    for number, rows, served in steps:
        if served:
            batcher.take(0)
        caller, held = f"{number}", Counter(batcher._held)
        callers = len(held | {caller: 1})
        is_due = held[caller] + rows <= max(1, limit // callers)
        try:
            push(batcher, caller, rows)
        except Overloaded:
            assert not is_due
            assert held.total() + rows > limit
        assert batcher.rows <= sum(max(1, limit // place) for place in range(1, len(batcher._held) + 1))


def test_admitted_rows_find_their_room_whoever_comes_meanwhile() -> None:
    batcher = queue_of_callers(40)
    reservation = batcher.reserve(30, caller="first")
    flood(batcher, "second", 20)
    flood(batcher, "third", 10)
    for _ in range(30):
        batcher.push(Entry(None, 1, 0, caller="first"), reservation)
    assert (batcher.rows, batcher.reserved_rows) == (60, 0)


def test_one_caller_of_many_pictures_keeps_none_from_another() -> None:
    batcher, pictures = queue_of_callers(40), Decoding(0, 0)
    for _ in range(2):
        batcher.reserve(10, decoding=pictures, caller="flood")
    with pytest.raises(Overloaded, match="to be decoded"):
        batcher.reserve(10, decoding=pictures, caller="flood")
    batcher.reserve(10, decoding=pictures, caller="good")


def test_callers_that_come_and_go_leave_nothing_behind() -> None:
    batcher = queue_of_callers()
    flood(batcher, "flood", 500)
    for number in range(2000):
        entry = push(batcher, f"{number}")
        if number % 4:
            assert batcher.discard(entry)
        elif number % 8:
            batcher.take(0, 2)
    turns, shares = batcher._turns[3], batcher._shares[3]
    waiting = len({entry.caller for entry in batcher})
    assert len(turns._heap) <= 2 * waiting + 65
    assert len(shares._served) <= waiting + 65
    batcher.clear()
    assert not any((shares._served, shares._waiting, shares._ahead, turns._heap, turns._lines, batcher._held))
    assert (batcher._backlog.total, batcher._room) == ([0] * 8, [0] * 8)
    assert not any(batcher._backlog._of)


def test_device_time_is_counted_by_key_and_never_by_address() -> None:
    batcher = queue_of_callers()
    for caller in ("key:alice", "cert:bob", "ip:203.0.113.7", "unix"):
        flood(batcher, caller, 4)
    batcher.take(0)
    assert batcher.served.ns == {"other": 8 * ROW_NS, "key:alice": 4 * ROW_NS, "cert:bob": 4 * ROW_NS}
    for number in range(1000):
        batcher.served.add(f"cert:{number}", 1.0)
    assert len(batcher.served.ns) == 256
