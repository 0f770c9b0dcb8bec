"""Headers of distributed traces are read as W3C Trace Context says, and invalid ones as if there were none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe.trace_context import TraceContext, of_headers, parse

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
HEX = "0123456789abcdef"


@given(
    st.text(HEX, min_size=32, max_size=32).filter(lambda text: text.strip("0")),
    st.text(HEX, min_size=16, max_size=16).filter(lambda text: text.strip("0")),
    st.integers(0, 255),
)
def test_each_valid_header_is_read(trace: str, span: str, flags: int) -> None:
    assert parse(f"00-{trace}-{span}-{flags:02x}") == TraceContext(trace, span, flags % 2 == 1)


@given(st.text(f"{HEX}-gG", max_size=60))
def test_what_is_read_is_written_the_same(text: str) -> None:
    found = parse(text)
    if found is not None:
        assert text[3:52] == f"{found.trace_id}-{found.parent_id}"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        f" {PARENT}",
        PARENT[:-1],
        f"{PARENT}-",
        f"{PARENT}\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"01-{TRACE}-{SPAN}-011",
        f"00-{TRACE[:-1]}é-{SPAN}-01",
    ],
)
def test_an_invalid_header_is_none(parent: str) -> None:
    assert parse(parent) is None


@pytest.mark.parametrize("more", ["", "-", "-more-of-it"])
def test_a_later_version_may_have_more(more: str) -> None:
    assert parse(f"01-{TRACE}-{SPAN}-03{more}") == TraceContext(TRACE, SPAN, is_sampled=True)


def test_among_headers_one_parent_and_all_of_its_state() -> None:
    state = ("tracestate", "a=1,b=2"), ("tracestate", "c=3")
    found = TraceContext(TRACE, SPAN, is_sampled=True, state="a=1,b=2,c=3")
    assert of_headers((("user-agent", "x"), state[0], ("traceparent", PARENT), state[1])) == found
    assert of_headers((("traceparent", PARENT), ("traceparent", PARENT))) is None
    assert of_headers((("user-agent", "x"), *state)) is None
    assert of_headers(()) is None


def test_a_long_state_is_left_out() -> None:
    assert parse(PARENT, "a" * 1024) == TraceContext(TRACE, SPAN, is_sampled=True, state="a" * 1024)
    assert parse(PARENT, "a" * 1025) == TraceContext(TRACE, SPAN, is_sampled=True)
