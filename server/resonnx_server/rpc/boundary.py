"""Maps errors to gRPC statuses.

Errors that are not a ServerError end a call with INTERNAL and an incident's id; the log has their traceback with it.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from resonnx_server import errors
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.rpc.fronts.call import Call, StreamCall
from resonnx_server.rpc.fronts.status import Aborted, Rejected

_log = logging.getLogger(__name__)

Context = Call
StreamContext = StreamCall
S = TypeVar("S")
Q = TypeVar("Q")
R = TypeVar("R")
C = TypeVar("C", bound=Call)

_DOMAIN: Final = "resonnx"
# For other classes, the entry of the nearest base class counts.
_CODES: Final[dict[type[errors.ServerError], grpc.StatusCode]] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ClipTooCostly: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SlowReader: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
    errors.ModelRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ServerError: grpc.StatusCode.INTERNAL,
}


def code_of(error: errors.ServerError) -> grpc.StatusCode:
    """Return the status code of an error."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def outcome_of(error: BaseException, method: str, context: Context) -> tuple[grpc.StatusCode, errors.ServerError]:
    """Return the status code and error for the caller; errors that are not a ServerError are logged and hidden."""
    if not isinstance(error, errors.ServerError):
        caller, more = context.caller.name, {"method": method}
        error = errors.ServerError.hidden(report_incident(_log, "a call failed", error, caller, more))
    return code_of(error), error


def outcome_of_part(error: BaseException, method: str, context: Context) -> tuple[grpc.StatusCode, errors.ServerError]:
    """Return the same for one request of a stream; the access log tells of it, if it has not yet."""
    code, known = outcome_of(error, method, context)
    if access_log.is_on and (identity := IDENTITY.get()) is not None and not identity.is_told:
        access_log.ended(context.caller.name, known.reason, 0)
    return code, known


def pushback_ms(error: errors.ServerError) -> int | None:
    """Return the retry hint of a refused call in ms: -1 for never; None if it was not refused."""
    if isinstance(error, errors.Overloaded):
        return error.retry_after_ms
    final = errors.DeadlineUnreachable | errors.SlowReader | errors.MessageTooLarge | errors.ClipTooCostly
    return -1 if isinstance(error, final) else None


def one_status(
    method: Callable[[S, Q, C], Awaitable[R]],
) -> Callable[[S, Q, C], Awaitable[R]]:
    """Set the call's status from any error that a servicer's method raises; for messages and streams."""

    @functools.wraps(method)
    async def call(self: S, request: Q, context: C) -> R:
        try:
            return await method(self, request, context)
        except Aborted:
            raise
        except BaseException as error:
            # The front cancelled the call: its caller has gone, its deadline passed, or the server stops.
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            _name_by(request)
            _set_status(error, context, method.__name__)
            # No message is sent where the code is not OK.
            return cast(R, None)

    return call


class Counting(Protocol):
    """A servicer whose failed calls are counted, as no model counts them."""

    @property
    def rejected(self) -> RejectedCalls:
        """The counter."""


N = TypeVar("N", bound=Counting)


def counted(method: Callable[[N, Q, C], Awaitable[R]]) -> Callable[[N, Q, C], Awaitable[R]]:
    """Count a call that fails with a ServerError as rejected; otherwise as one_status."""

    @functools.wraps(method)
    async def call(self: N, request: Q, context: C) -> R:
        with self.rejected.counting():
            return await method(self, request, context)

    return one_status(call)


def is_cancelled() -> bool:
    """Whether the current task has itself been cancelled, not only what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _name_by(request: object) -> None:
    """Let the request's own id name it in the log and to its caller, if it failed before its model was found."""
    given = getattr(getattr(request, "message", request), "id", "")
    if isinstance(given, str) and given and (identity := IDENTITY.get()) is not None:
        identity.given = given


def _set_status(error: BaseException, context: Context, method: str) -> None:
    """Set a call's status by its error."""
    code, known = outcome_of(error, method, context)
    context.set_status(code, known.message, _trailers(code, known))


def _trailers(code: grpc.StatusCode, error: errors.ServerError) -> tuple[tuple[str, str | bytes], ...]:
    """Pack reason, field, retry hint and request id as google.rpc details, and the hint also as gRPC's own pushback."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN)
    if isinstance(error, errors.InferenceHung):
        info.metadata["retry"] = "safe"
    status.details.add().Pack(info)
    trailers: list[tuple[str, str | bytes]] = []
    if isinstance(error, errors.InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.Overloaded):
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if (identity := IDENTITY.get()) is not None:
        identity.reason = error.reason
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=identity.id))
    if (pushback := pushback_ms(error)) is not None:
        trailers.append(("grpc-retry-pushback-ms", str(pushback)))
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    return tuple(trailers)


def rejection(error: errors.ServerError) -> Rejected:
    """Return the exception with which a deserializer ends its call."""
    code = code_of(error)
    return Rejected(code, error.message, _trailers(code, error))


def deadline_ns(context: Context) -> int | None:
    """Return the caller's deadline as monotonic ns, or None if it set none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic_ns() + int(remaining * 1e9)
