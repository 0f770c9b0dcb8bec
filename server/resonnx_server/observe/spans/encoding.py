"""Spans as messages of OTLP.

OpenTelemetry's own encoder takes three times as long, for values, events and scopes that the server's spans lack.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

_KNOWN: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _KNOWN | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


def encoded(spans: Iterable[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return spans of one resource and one scope, as OtlpSink makes them: without events."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_scope = of_resource.scope_spans.add()
    span = None
    for span in spans:
        context, parent = span.context, span.parent
        message = of_scope.spans.add(
            **_ids(context),
            name=span.name,
            # OpenTelemetry's numbers of kinds begin with 0, and those of OTLP with "unspecified".
            kind=span.kind.value + 1,
            start_time_unix_nano=span.start_time,
            end_time_unix_nano=span.end_time,
            flags=_flags(parent),
        )
        if state := context.trace_state:
            message.trace_state = state.to_header()
        if parent is not None:
            message.parent_span_id = parent.span_id.to_bytes(8, "big")
        _add(message.attributes, span.attributes or {})
        for link in span.links:
            message.links.add(**_ids(link.context), flags=_flags(link.context))
        code: Any = span.status.status_code.value
        message.status.code = code
        if span.status.description:
            message.status.message = span.status.description
    if span is not None:
        _add(of_resource.resource.attributes, span.resource.attributes)
        if (scope := span.instrumentation_scope) is not None:
            of_scope.scope.name, of_scope.scope.version = scope.name, scope.version or ""
    return request


def _ids(context: SpanContext) -> dict[str, bytes]:
    return {"trace_id": context.trace_id.to_bytes(16, "big"), "span_id": context.span_id.to_bytes(8, "big")}


def _flags(context: SpanContext | None) -> int:
    return _REMOTE if context is not None and context.is_remote else _KNOWN


def _add(pairs: Any, attributes: Mapping[str, Any]) -> None:
    for name, given in attributes.items():
        value = pairs.add(key=name).value
        if isinstance(given, str):
            value.string_value = given
        elif isinstance(given, bool):
            value.bool_value = given
        elif isinstance(given, int):
            value.int_value = given
        elif isinstance(given, float):
            value.double_value = given
        else:
            # Of a resource, by OpenTelemetry's detectors: a list of texts.
            for each in given:
                value.array_value.values.add(string_value=str(each))
