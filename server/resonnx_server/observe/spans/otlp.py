"""Exports spans to a collector by OTLP over gRPC. Besides encoding.py, only this module needs OpenTelemetry (`otel`).

Which collector, sampling, names and limits are the standard variables of OpenTelemetry:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Self

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.spans.encoding import encoded
from resonnx_server.observe.spans.record import Attributes, Kind, Span, SpanId
from resonnx_server.observe.spans.tracer import BadExport
from resonnx_server.observe.trace_context import TraceContext

_log = logging.getLogger(__name__)

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status()
_KINDS: Final = {Kind.SERVER: SpanKind.SERVER, Kind.INTERNAL: SpanKind.INTERNAL}
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# The library's loggers that tell of each batch that cannot be delivered, and of each span that is dropped.
_TOLD_OFTEN: Final = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")
# It tells of each header tracestate that is wrong, which callers can send at any rate.
_OF_CALLERS: Final = "opentelemetry.trace.span"
_INTERVAL_S: Final = 60.0
# For the last spans.
_CLOSE_S: Final = 2.0


class _Exporter(OTLPSpanExporter):
    """The library's, with an encoder of less processor time. A release without this method would use its own again."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encoded(data)


class OtlpSink:
    """The sink that exports.

    Args:
        processor: Takes spans that have ended, without waiting.
        version: The server's.
    """

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        # It reads the variables; none of its spans is made.
        named = {} if _is_named() else {SERVICE_NAME: "resonnx-server"}
        resource = Resource.create({**named, "service.version": version})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._sampler, self._ids, self._resource = provider.sampler, provider.id_generator, resource
        self._scope = InstrumentationScope("resonnx_server", version)
        self._processor = processor

    @classmethod
    def of_environment(cls, version: str) -> Self:
        """Return the sink to the collector that the variables name; by default, localhost:4317.

        Raises:
            BadExport: They ask for what is not supported, or cannot be read.
        """
        for name in _PROTOCOLS:
            if (protocol := os.environ.get(name, "grpc")) != "grpc":
                raise BadExport(f"{name}: {protocol!r} is not supported; use grpc")
        paced = _Paced()
        for name in _TOLD_OFTEN:
            logging.getLogger(name).addFilter(paced)
        logging.getLogger(_OF_CALLERS).setLevel(logging.CRITICAL)
        try:
            # A bounded queue and a thread of its own: what does not fit is dropped.
            return cls(BatchSpanProcessor(_Exporter()), version)
        except (ValueError, OSError) as error:
            raise BadExport(f"traces cannot be exported by the variables OTEL_*: {error}") from None

    def sample(self, parent: TraceContext | None, name: str, attributes: Attributes) -> SpanId | None:
        """Return the ids of a call's span if the sampler takes it, and nothing fails."""
        try:
            return self._sample(parent, name, attributes)
        except Exception as error:  # no request may fail for its trace
            report_incident(_log, "a call could not be sampled", error)
            return None

    def _sample(self, parent: TraceContext | None, name: str, attributes: Attributes) -> SpanId | None:
        if parent is None:
            context, trace_id = None, self._ids.generate_trace_id()
        else:
            trace_id = int(parent.trace_id, 16)
            flags = _SAMPLED if parent.is_sampled else TraceFlags.get_default()
            state = _state(parent.state)
            remote = SpanContext(trace_id, int(parent.parent_id, 16), True, flags, state)
            context = set_span_in_context(NonRecordingSpan(remote))
        result = self._sampler.should_sample(context, trace_id, name, SpanKind.SERVER, attributes)
        if result.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        state_text = "" if result.trace_state is None else result.trace_state.to_header()
        return SpanId(trace_id, self._ids.generate_span_id(), state_text)

    def new_trace(self) -> SpanId:
        """Return ids of a first span."""
        return SpanId(self._ids.generate_trace_id(), self._ids.generate_span_id())

    def new_span_id(self) -> int:
        """Return an id of a further span."""
        return self._ids.generate_span_id()

    def put(self, spans: Iterable[Span]) -> None:
        """Give spans to the processor."""
        since_epoch_ns = time.time_ns() - time.monotonic_ns()
        try:
            for span in spans:
                self._processor.on_end(self._readable(span, since_epoch_ns))
        except Exception as error:  # no batch may fail for its trace
            report_incident(_log, "spans could not be exported", error)

    def close(self) -> None:
        """Export the last spans, within a few seconds."""
        # A collector that does not answer would hold it for longer.
        closing = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _readable(self, span: Span, since_epoch_ns: int) -> ReadableSpan:
        # The library means such objects to be made by its tracers, which would choose the ids.
        return ReadableSpan(
            span.name,
            _context(span.id),
            None if span.parent is None else _context(span.parent, is_remote=span.is_remote),
            self._resource,
            span.attributes,
            links=[Link(_context(link)) for link in span.links],
            kind=_KINDS[span.kind],
            status=_UNSET if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns + since_epoch_ns,
            end_time=span.end_ns + since_epoch_ns,
            instrumentation_scope=self._scope,
        )


class _Paced(logging.Filter):
    """Lets a line pass each minute: a collector may be away for days."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + _INTERVAL_S
        return True


def _is_named(environment: Mapping[str, str] = os.environ) -> bool:
    attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(environment.get("OTEL_SERVICE_NAME")) or f"{SERVICE_NAME}=" in attributes


# Each span of a call has its header, which is up to 1024 characters of its caller's.
@lru_cache(maxsize=256)
def _state(header: str) -> TraceState:
    return TraceState.from_header([header]) if header else TraceState()


# A request's own is that of its stages' parent and of its batch's link as well.
@lru_cache(maxsize=1024)
def _context(span: SpanId, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(span.trace_id, span.span_id, is_remote, _SAMPLED, _state(span.state))
