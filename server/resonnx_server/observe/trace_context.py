"""The caller's place in a distributed trace, from the headers `traceparent` and `tracestate`.

By W3C Trace Context, https://www.w3.org/TR/trace-context/ (level 1, whose rules for later versions are followed, too).
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final, NamedTuple

PARENT: Final = "traceparent"
STATE: Final = "tracestate"

# A version whose form is not known may have more after the flags.
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED: Final = 1
# The recommendation asks to pass on 512 characters; longer ones are left out.
_LONGEST_STATE: Final = 1024


class TraceContext(NamedTuple):
    """Where a request belongs in its caller's trace.

    Attributes:
        trace_id: 32 digits, hex, lower case, not all 0.
        parent_id: The caller's span: 16 digits, hex, lower case, not all 0.
        is_sampled: The caller records the trace.
        state: The header `tracestate`, to be passed on as it is; empty if there is none.
    """

    trace_id: str
    parent_id: str
    is_sampled: bool
    state: str = ""


def parse(parent: str, state: str = "") -> TraceContext | None:
    """Return the context of the header `traceparent`, with that of `tracestate`; None if the first is invalid."""
    match = _PARENT.fullmatch(parent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    is_wrong = version == "ff" or (version == "00" and more is not None)
    if is_wrong or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    is_sampled = bool(int(flags, 16) & _SAMPLED)
    return TraceContext(trace_id, parent_id, is_sampled, state if len(state) <= _LONGEST_STATE else "")


def of_headers(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Return the context in a call's headers, whose names are in lower case; None if there is no valid one."""
    parent = None
    for name, value in headers:
        if name == PARENT:
            if parent is not None:
                # Which one is the caller's is not known.
                return None
            parent = value
    if not isinstance(parent, str):
        return None
    return parse(parent, ",".join(str(value) for name, value in headers if name == STATE))


# The context of the call that the current task serves; None if it has none.
TRACE_CONTEXT: Final[ContextVar[TraceContext | None]] = ContextVar("TRACE_CONTEXT", default=None)
