"""Spans of posted requests, by OpenTelemetry's conventions.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from typing import Final

from aiohttp import web

from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.spans.tracer import CallSpan, tracer

_LEAST_ERROR: Final = 400
_LEAST_FAULT: Final = 500


def begin(route: str) -> CallSpan | None:
    """Return the span of the current task's request to a route; None if it is not recorded."""
    span = tracer.call(f"POST {route}", {"http.request.method": "POST", "http.route": route})
    if (identity := IDENTITY.get()) is not None:
        identity.call_span = span
    return span


def end(span: CallSpan, response: web.StreamResponse | None) -> None:
    """Record a request with its answer; None if its client has gone."""
    if response is None:
        span.end({"error.type": "cancelled"}, None)
        return
    status = response.status
    attributes: dict[str, str | int] = {"http.response.status_code": status}
    if status >= _LEAST_ERROR:
        attributes["error.type"] = str(status)
    span.end(attributes, str(status) if status >= _LEAST_FAULT else None)
