"""Spans of requests: which model, by whom, and how they ended."""

import asyncio
from typing import Final

from resonnx_server.errors import FailureReason, ServerError
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.spans.tracer import RequestSpan
from resonnx_server.observe.stats import Timing

# Callers without a key or certificate are known by their address, which leaves the server nowhere else.
_NAMED: Final = ("key:", "cert:")
# Of failures that are not their callers'.
_FAULTS: Final = (FailureReason.REJECTED, FailureReason.BACKEND)
_UNKNOWN: Final = ServerError.reason


def begin_span(task: str, model: str, version: int, provider: str, caller: str) -> RequestSpan | None:
    """Return the span of the current task's request; None if its call is not recorded.

    Args:
        task: The model's task.
        model: Its name.
        version: Its version.
        provider: Its provider and precision.
        caller: The caller's name.
    """
    identity = IDENTITY.get()
    if identity is None or identity.call_span is None:
        return None
    attributes: dict[str, str | int] = {
        "resonnx.model": model,
        "resonnx.version": version,
        "resonnx.provider": provider,
        "resonnx.request_id": identity.id,
    }
    if caller.startswith(_NAMED):
        attributes["resonnx.caller"] = caller
    identity.span = identity.call_span.request(f"{task} {model}", attributes)
    return identity.span


def end_span(
    span: RequestSpan,
    start_ns: int,
    end_ns: int,
    decode: tuple[int, int],
    timing: Timing | None,
    error: BaseException | None,
) -> None:
    """Record a request's span; arguments as of RequestSpan.end."""
    if error is None:
        span.end(start_ns, end_ns, decode, timing, {}, None)
        return
    known = error if isinstance(error, ServerError) else None
    is_cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
    reason = "CANCELLED" if is_cancelled else type(error).__name__ if known is None else known.reason
    is_fault = isinstance(error, Exception) and (known is None or reason == _UNKNOWN or known.failure in _FAULTS)
    span.end(start_ns, end_ns, decode, timing, {"error.type": reason}, reason if is_fault else None)
