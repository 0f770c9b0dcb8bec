"""Records the spans of calls: those of the call, of its requests and their stages, and of batches.

Nothing is recorded until there is a sink. Spans are made when a call or a request ends, of times that are noted anyway.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from resonnx_server.observe.spans.record import Attributes, Kind, Span, SpanId
from resonnx_server.observe.stats import BatchCount, Timing
from resonnx_server.observe.trace_context import TRACE_CONTEXT, TraceContext


class BadExport(Exception):
    """Traces cannot be exported; the message is one line for the user."""


class Sink(Protocol):
    """Chooses which calls are recorded, and takes their spans. On any thread."""

    def sample(self, parent: TraceContext | None, name: str, attributes: Attributes) -> SpanId | None:
        """Return the ids of a call's span if it is recorded, else None.

        Args:
            parent: The caller's span; None if it told none.
            name: The call's name.
            attributes: Those known when it begins.
        """

    def new_trace(self) -> SpanId:
        """Return ids of a first span."""

    def new_span_id(self) -> int:
        """Return an id of a further span."""

    def put(self, spans: Iterable[Span]) -> None:
        """Export spans soon, or drop them; without waiting."""


class Decoded(NamedTuple):
    """What became of one picture of a caption request: its timing, when it was encoded and ended, and its steps."""

    timing: Timing
    encoded_ns: int
    ended_ns: int
    steps: int


class CallSpan:
    """A call that is recorded.

    Args:
        sink: Takes its spans.
        id: Its ids.
        parent: The caller's span, if it told one.
        name: Its name.
        attributes: Those known when it begins.
    """

    __slots__ = ("_attributes", "_name", "_parent", "_start_ns", "id", "sink")

    def __init__(self, sink: Sink, id: SpanId, parent: TraceContext | None, name: str, attributes: Attributes) -> None:
        self.sink, self.id = sink, id
        self._parent = None if parent is None else SpanId(int(parent.trace_id, 16), int(parent.parent_id, 16))
        self._name, self._attributes = name, attributes
        self._start_ns = time.monotonic_ns()

    def end(self, attributes: Attributes, error: str | None) -> None:
        """Record it.

        Args:
            attributes: Further ones.
            error: The failure, if it is the server's.
        """
        attributes = {**self._attributes, **attributes}
        more = {"error": error, "kind": Kind.SERVER, "is_remote": self._parent is not None}
        now = time.monotonic_ns()
        self.sink.put([Span(self._name, self.id, self._parent, self._start_ns, now, attributes, **more)])  # type: ignore[arg-type]

    def request(self, name: str, attributes: Attributes) -> "RequestSpan":
        """Return the span of a request of the call, which begins now."""
        return RequestSpan(self, name, attributes)


class RequestSpan:
    """One request of a call.

    Args:
        call: The call's span.
        name: Task and model.
        attributes: Of the model.

    Attributes:
        id: Its ids.
        attributes: Of the model.
        batches: Spans of the batches that ran its rows. Appended to on a device's lane.
        decoded: Of a caption request: what became of its pictures.
    """

    __slots__ = ("_call", "_name", "attributes", "batches", "decoded", "id")

    def __init__(self, call: CallSpan, name: str, attributes: Attributes) -> None:
        self._call, self._name, self.attributes = call, name, attributes
        self.id = call.id._replace(span_id=call.sink.new_span_id())
        self.batches: list[SpanId] = []
        self.decoded: Sequence[Decoded] = ()

    def end(
        self,
        start_ns: int,
        end_ns: int,
        decode: tuple[int, int],
        timing: Timing | None,
        attributes: Attributes,
        error: str | None,
    ) -> None:
        """Record it and its stages.

        Args:
            start_ns: When it had been received.
            end_ns: When its answer was ready, or it had failed.
            decode: When the decoding of its pictures began, and its time; zeros for what did not happen.
            timing: Its time in the engine; None if it failed before.
            attributes: Further ones.
            error: The reason of its failure, if it failed by the server's fault.
        """
        decode_start, decode_ns = decode
        queued = 0 if timing is None else timing.start_ns - timing.queue_ns
        stages = [self._stage("admission", start_ns, decode_start or queued or end_ns)]
        if decode_start:
            decoded = decode_start + decode_ns if decode_ns else end_ns
            stages.append(self._stage("decode", decode_start, decoded))
            if timing is None and decode_ns:
                stages.append(self._stage("queue", decoded, end_ns))
        if self.decoded:
            for each in self.decoded:
                stages += self._caption(each)
        elif timing is not None:
            done = timing.start_ns + timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns
            rows = {"resonnx.batch.rows": timing.batch_rows}
            stages.append(self._stage("queue", queued, timing.start_ns))
            stages.append(self._stage("compute", timing.start_ns, done, rows, self.batches))
        every = {**self.attributes, **attributes}
        whole = Span(self._name, self.id, self._call.id, start_ns, end_ns, every, error=error)
        self._call.sink.put([whole, *stages])

    def _caption(self, decoded: Decoded) -> list[Span]:
        timing = decoded.timing
        rows = {"resonnx.batch.rows": timing.batch_rows}
        found = [
            self._stage("queue", timing.start_ns - timing.queue_ns, timing.start_ns),
            self._stage("encode", timing.start_ns, decoded.encoded_ns, rows, self.batches),
        ]
        # One span for all steps: those of a token each would be hundreds.
        steps = {"resonnx.caption.steps": decoded.steps}
        return [*found, self._stage("steps", decoded.encoded_ns, decoded.ended_ns, steps)]

    def _stage(
        self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None, links: Sequence[SpanId] = ()
    ) -> Span:
        own = self.id._replace(span_id=self._call.sink.new_span_id())
        return Span(name, own, self.id, start_ns, max(start_ns, end_ns), attributes or {}, [*links])


def batch_attributes(count: BatchCount) -> Attributes:
    """Return what is told of a batch: rows, with padding, and its time by phase in ms."""
    return {
        "resonnx.batch.rows": count.rows,
        "resonnx.batch.size": count.size,
        "resonnx.batch.input_ms": count.input_ns / 1e6,
        "resonnx.batch.infer_ms": count.infer_ns / 1e6,
        "resonnx.batch.output_ms": count.output_ns / 1e6,
    }


class Tracer:
    """Records spans if there is a sink.

    Attributes:
        sink: Takes them.
        is_on: Whether there is a sink. Looked at for each call and request: nothing else is done if it is false.
    """

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.is_on = False

    def use(self, sink: Sink | None) -> None:
        """Record spans for a sink; None for no more."""
        self.sink, self.is_on = sink, sink is not None

    def call(self, name: str, attributes: Attributes) -> CallSpan | None:
        """Return the span of a call of the current task that begins now; None if it is not recorded.

        The task's TRACE_CONTEXT is the caller's, and becomes the call's own.
        """
        parent = TRACE_CONTEXT.get()
        if self.sink is None or (own := self.sink.sample(parent, name, attributes)) is None:
            return None
        TRACE_CONTEXT.set(TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", is_sampled=True, state=own.state))
        return CallSpan(self.sink, own, parent, name, attributes)

    def batch(
        self, name: str, members: Iterable[RequestSpan | None], start_ns: int, end_ns: int, attributes: Attributes
    ) -> None:
        """Record a batch as the first span of a trace of its own, linked to its requests, and those to it.

        Args:
            name: What it did.
            members: The spans of its requests; None for those that are not recorded.
            start_ns: Its begin.
            end_ns: Its end.
            attributes: Beside the model's.
        """
        recorded = [member for member in members if member is not None]
        if self.sink is None or not recorded:
            return
        own = self.sink.new_trace()
        for member in recorded:
            member.batches.append(own)
        every = {**recorded[0].attributes, **attributes}
        links = [member.id for member in recorded]
        self.sink.put([Span(name, own, None, start_ns, end_ns, every, links)])


# As logging's state, it is the process's.
tracer: Final = Tracer()
