"""What is told of calls of gRPC: spans, by OpenTelemetry's conventions, and lines of the access log.

https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

import asyncio
import sys
import time
from typing import Final

import grpc

from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.observe.requests.identity import Identity
from resonnx_server.observe.spans.tracer import CallSpan, tracer

# Health checks and reflection would fill traces and log; the server's own check of its front is no caller's.
_SERVICES: Final = ("/resonnx.v1.", "/inference.")
# Of a stream whose requests just end when its deadline passes.
_LATE_S: Final = 0.001
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


def begin(identity: Identity, path: str) -> None:
    """Note that a call of the current task begins."""
    if path.startswith(_SERVICES):
        identity.start_ns = time.monotonic_ns()
        identity.call_span = tracer.call(path[1:], {"rpc.system.name": "grpc", "rpc.method": path[1:]})


def end(identity: Identity, caller: str, code: grpc.StatusCode, remaining_s: float | None) -> None:
    """Tell of a call that ends with a status, or because it was cancelled.

    Args:
        identity: The call's.
        caller: The caller's name.
        code: The status that the handler chose.
        remaining_s: Time until the caller's deadline; None if it set none.
    """
    if not identity.start_ns:
        return
    if code is grpc.StatusCode.OK:
        is_cancelled = isinstance(sys.exc_info()[1], asyncio.CancelledError)
        took_s = (time.monotonic_ns() - identity.start_ns) / 1e9
        # gRPC cancels late calls. Callers round deadlines up on their way, by up to 1 %.
        late_s = max(_LATE_S, (took_s + (remaining_s or 0)) / 100) if is_cancelled else _LATE_S
        if remaining_s is not None and remaining_s <= late_s:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        elif is_cancelled:
            code = grpc.StatusCode.CANCELLED
    if access_log.is_on:
        access_log.call_ended(identity, caller, code.name)
    if identity.call_span is not None:
        _end_span(identity.call_span, code)


def _end_span(span: CallSpan, code: grpc.StatusCode) -> None:
    attributes = {"rpc.response.status_code": code.name}
    if code is grpc.StatusCode.OK:
        span.end(attributes, None)
    else:
        span.end({**attributes, "error.type": code.name}, code.name if code in _FAULTS else None)
