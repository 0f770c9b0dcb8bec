"""Every way that a call to the server can fail, and the one place that reads a gRPC status.

    ResonnxError
    ├── InvalidArgument       the request can never succeed as it is; `field` names its part
    ├── NotFound              no such model or version
    ├── FailedPrecondition    the model cannot do this as it stands
    ├── Unimplemented         the server does not have this call
    ├── Overloaded            shed by the server, or a message over the size limit
    ├── Unavailable           not reachable, draining or not ready
    ├── DeadlineExceeded      no answer within timeout_s or answer_within_s, nor could there be one
    ├── Internal              the server failed
    └── Cancelled             the client was closed during the call
        └── ClientClosed      the client was closed before the call

A status of any other code is a plain ResonnxError. What is no picture raises OSError, TypeError or
ValueError before anything is sent.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.v1 import vision_pb2

_DOMAIN = "resonnx"


class ResonnxError(Exception):
    """Base of all.

    Attributes:
        message: For people; may change.
        code: The gRPC status code's name, e.g. "NOT_FOUND".
        reason: Stable and more exact, e.g. "MODEL_NOT_FOUND"; `code` where the server gave none.
        field: The request's field at fault, or None.
        retry_after_s: When the server expects room again, in seconds, or None.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason or self.code
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidArgument(ResonnxError):
    """The request can never succeed as it is."""

    default_code = "INVALID_ARGUMENT"


class NotFound(ResonnxError):
    """No such model or version."""

    default_code = "NOT_FOUND"


class FailedPrecondition(ResonnxError):
    """The model cannot do this as it stands."""

    default_code = "FAILED_PRECONDITION"


class Unimplemented(ResonnxError):
    """The server does not have this call."""

    default_code = "UNIMPLEMENTED"


class Overloaded(ResonnxError):
    """Shed by the server, or a message over the size limit (then without `retry_after_s`).

    The reason is QUEUE_FULL, or WAIT_TOO_LONG where what waits before the request leaves it too little time; of a
    message over the server's limit MESSAGE_TOO_LARGE, and of words that were not read in time SLOW_READER.
    """

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(ResonnxError):
    """The server cannot be reached, drains, or is not ready."""

    default_code = "UNAVAILABLE"


class DeadlineExceeded(ResonnxError):
    """No answer within `timeout_s` or `answer_within_s`.

    Where the request takes longer than that even on an idle server, it is told at once, with the reason
    DEADLINE_UNREACHABLE: more time helps, another try does not.
    """

    default_code = "DEADLINE_EXCEEDED"


class Internal(ResonnxError):
    """The server failed, or broke the protocol."""

    default_code = "INTERNAL"


class Cancelled(ResonnxError):
    """The client was closed during the call."""

    default_code = "CANCELLED"


class ClientClosed(Cancelled):
    """The client was closed before the call."""

    def __init__(self) -> None:
        super().__init__("the client is closed", reason="CLIENT_CLOSED")


_CLASSES = {kind.default_code: kind for kind in ResonnxError.__subclasses__()}


def from_rpc_error(error: grpc.RpcError) -> ResonnxError:
    """Read code, message and details of a failed call, sync or async.

    Details that cannot be parsed, or are not of the domain "resonnx", count as absent.
    """
    reason = field = None
    retry_after_s = pushback_s(error)
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
        elif detail.Unpack(request) and request.field_violations:
            field = request.field_violations[0].field
        elif detail.Unpack(retry) and retry_after_s is None:
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return _error(
        error.code().name,
        error.details() or error.code().name,
        reason=reason,
        field=field,
        retry_after_s=retry_after_s,
    )


def from_stream(error: vision_pb2.Error) -> ResonnxError:
    """Read the error of one picture of a ClassifyStream."""
    # As in the trailer of a call: anything but a non-negative number forbids the retry.
    invited = error.HasField("retry_after_ms") and error.retry_after_ms >= 0
    retry_after_s = error.retry_after_ms / 1e3 if invited else None
    return _error(error.code, error.message, reason=error.reason, retry_after_s=retry_after_s)


def from_unreadable(error: OSError | ValueError | InvalidArgument) -> InvalidArgument:
    """Give a picture that never left this machine the form of the server's own refusals."""
    if isinstance(error, InvalidArgument):
        return error
    message = (isinstance(error, OSError) and error.strerror) or str(error)
    return InvalidArgument(message, reason="IMAGE_UNREADABLE", field="image")


def pushback_s(error: grpc.RpcError) -> float | None:
    """Seconds after which the server invites the same call again; None if it does not."""
    value = _trailer(error, "grpc-retry-pushback-ms")
    # gRPC's rule: anything but a non-negative number forbids the retry.
    return int(value) / 1e3 if isinstance(value, str) and value.isdecimal() else None


def _details(error: grpc.RpcError) -> Sequence[Any]:
    value = _trailer(error, "grpc-status-details-bin")
    try:
        return list(status_pb2.Status.FromString(value or b"").details)
    except DecodeError:
        return []


def _trailer(error: grpc.RpcError, key: str) -> Any:
    # Any: the sync and the async client's metadata share no type, only that they are pairs.
    trailers: Any = error.trailing_metadata() or ()
    return next((value for name, value in trailers if name == key), None)


def _error(
    code: str,
    message: str,
    *,
    reason: str | None,
    field: str | None = None,
    retry_after_s: float | None = None,
) -> ResonnxError:
    kind = _CLASSES.get(code, ResonnxError)
    return kind(message, code=code, reason=reason, field=field, retry_after_s=retry_after_s)
