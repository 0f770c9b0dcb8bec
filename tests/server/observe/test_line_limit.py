"""The limit of log lines: at most so many in any second, and the rest is counted."""

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe.line_limit import LineLimit

from ...conftest import examples
from ..waiting import Clock

SECOND_NS = 1_000_000_000


@given(st.lists(st.integers(0, SECOND_NS) | st.integers(0, 100_000_000), max_size=80), st.integers(1, 8))
@examples(100)
def test_no_second_has_more_lines_and_none_is_lost(pauses: list[int], per_s: int) -> None:
    clock = Clock()
    limit, admitted, told, held_back = LineLimit(per_s, clock), list[int](), 0, 0
    for pause in pauses:
        clock.ns += pause
        before = limit.admit()
        within = sum(clock.ns - at < SECOND_NS for at in admitted)
        assert (before is None) == (within >= per_s)
        if before is None:
            held_back += 1
        else:
            admitted.append(clock.ns)
            told += before
            assert told == held_back
