"""The order of a stream's answers, whatever order they are ready in."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.rpc.pipeline import Ordered


@given(st.data(), st.integers(0, 40))
def test_answers_come_in_the_order_of_their_requests(data: st.DataObject, count: int) -> None:
    """Requests come and answers become ready in any order; each is returned as soon as it may be."""
    ordered: Ordered[int] = Ordered(lambda _: 0, 1)
    under_way: set[int] = set()
    ready: set[int] = set()
    out: list[int] = []
    begun = 0
    while begun < count or under_way:
        may_begin = begun < count
        if may_begin and (not under_way or data.draw(st.booleans())):
            under_way.add(ordered.number())
            begun += 1
            continue
        number = data.draw(st.sampled_from(sorted(under_way)))
        under_way.remove(number)
        ready.add(number)
        due = ordered.put(number, number)
        out += due
        ready -= set(due)
        # No answer is held back whose turn has come.
        assert len(out) not in ready
    assert out == list(range(count))


def test_an_answer_may_be_anything() -> None:
    ordered: Ordered[Any] = Ordered(lambda _: 0, 1)
    first, second, third = ordered.number(), ordered.number(), ordered.number()
    assert ordered.put(second, None) == []
    assert ordered.put(first, []) == [[], None]
    assert ordered.put(third, None) == [None]


async def test_there_is_room_while_few_bytes_are_held_back() -> None:
    ordered: Ordered[bytes] = Ordered(len, 10)
    first, second, third = ordered.number(), ordered.number(), ordered.number()
    ordered.put(second, bytes(9))
    await asyncio.wait_for(ordered.room(), 10)
    ordered.put(third, bytes(1))
    waiting = asyncio.ensure_future(ordered.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    ordered.put(first, b"")
    await asyncio.wait_for(waiting, 10)


def test_the_bytes_that_are_held_back_are_told() -> None:
    told: list[int] = []
    ordered: Ordered[bytes] = Ordered(len, 1, told.append)
    numbers = [ordered.number() for _ in range(3)]
    ordered.put(numbers[2], bytes(60))
    ordered.put(numbers[1], bytes(40))
    ordered.put(numbers[0], bytes(20))
    assert told == [60, 100, 0]
