"""The order of a stream's answers, whatever order they are ready in."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.rpc.pipeline import Turn, Turns


@given(st.data(), st.integers(0, 40))
def test_answers_come_in_the_order_of_their_requests(data: st.DataObject, count: int) -> None:
    """Requests come and answers become ready in any order beside each other; each is given out as soon as it may be."""
    turns: Turns[int] = Turns()
    under_way: dict[int, Turn[int]] = {}
    ready: set[int] = set()
    out: list[int] = []
    begun = 0
    while begun < count or under_way:
        may_begin = begun < count
        if may_begin and (not under_way or data.draw(st.booleans())):
            under_way[begun] = turns.take()
            begun += 1
            continue
        number = data.draw(st.sampled_from(sorted(under_way)))
        ready.add(number)
        due = turns.settle(under_way.pop(number), number)
        out += due
        ready -= set(due)
        # Nothing waits whose turn has come.
        assert len(out) not in ready
    assert out == list(range(count))


def test_an_answer_may_be_anything() -> None:
    turns: Turns[Any] = Turns()
    first, second, third = turns.take(), turns.take(), turns.take()
    assert turns.settle(second, None) == []
    assert turns.settle(first, []) == [[], None]
    assert turns.settle(third, None) == [None]
