"""Spans as they are recorded. Times are monotonic, in ns; whoever exports them knows the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

Attributes = Mapping[str, str | int | float | bool]


class SpanId(NamedTuple):
    """A span: its trace's id of 128 bits, and its own of 64 bits; neither is 0. `state` is the header `tracestate`."""

    trace_id: int
    span_id: int
    state: str = ""


class Kind(Enum):
    """Whether a span answers a call, or is a part of that."""

    SERVER = "server"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended.

    Attributes:
        name: What was done; of few values.
        id: Its ids.
        parent: The span that it is a part of; None for the first of a trace.
        start_ns: Its begin.
        end_ns: Its end.
        attributes: By name.
        links: Spans of other traces, or of other parts of this one, that it belongs to.
        error: What failed, if it did by the server's fault.
        kind: Whether it answers a call.
        is_remote: `parent` is the caller's.
    """

    name: str
    id: SpanId
    parent: SpanId | None
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=dict)
    links: Sequence[SpanId] = ()
    error: str | None = None
    kind: Kind = Kind.INTERNAL
    is_remote: bool = False
