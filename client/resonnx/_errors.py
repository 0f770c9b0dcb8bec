"""Exceptions of the clients, and their conversion from gRPC statuses.

    ResonnxError
    ├── InvalidArgument       the request is invalid; `field` names the part
    ├── NotFound              no such model or version
    ├── AlreadyExists         there is one of this name already
    ├── FailedPrecondition    the model does not support the request
    ├── Unauthenticated       the server does not know the key or certificate
    ├── PermissionDenied      the key does not allow this call, model or priority
    ├── Unimplemented         the server does not have this call
    ├── Overloaded            refused under load, or a message over the size limit
    ├── Unavailable           the server is unreachable, draining or not ready
    ├── DeadlineExceeded      timeout_s or answer_within_s passed, or cannot be met
    ├── Internal              the server failed
    └── Cancelled             the client was closed during the call
        └── ClientClosed      the client was closed before the call

Other status codes raise ResonnxError itself. Reasons have subclasses of these, which _reasons.py lists. An argument
that is not a picture raises OSError, TypeError or ValueError before a request is sent.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.v1 import vision_pb2

_DOMAIN = "resonnx"
# How gRPC's C core tells of RST_STREAM with INTERNAL_ERROR.
_RESET = "Received RST_STREAM with error code 2"


class ResonnxError(Exception):
    """Base class of the client's errors.

    Attributes:
        message: Readable text, which may change between versions.
        code: Name of the gRPC status code, e.g. "NOT_FOUND".
        reason: Stable identifier, e.g. "MODEL_NOT_FOUND"; equal to `code` if the server gave none.
        field: Name of the invalid field of the request, or None.
        retry_after_s: Seconds after which the server expects to accept the request, or None.
        request_id: Names the request in the server's log, or None.
    """

    default_code: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str | None] = None
    _by_reason: ClassVar[dict[str, "type[ResonnxError]"]] = {}

    def __init_subclass__(cls) -> None:
        if cls.default_reason is not None:
            cls._by_reason.setdefault(cls.default_reason, cls)

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason or self.default_reason or self.code
        self.field = field
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class InvalidArgument(ResonnxError):
    """The request is invalid."""

    default_code = "INVALID_ARGUMENT"


class NotFound(ResonnxError):
    """No such model or version."""

    default_code = "NOT_FOUND"


class AlreadyExists(ResonnxError):
    """There is one of this name already."""

    default_code = "ALREADY_EXISTS"


class FailedPrecondition(ResonnxError):
    """The model does not support the request."""

    default_code = "FAILED_PRECONDITION"


class Unauthenticated(ResonnxError):
    """The server needs a key or a certificate that it knows."""

    default_code = "UNAUTHENTICATED"


class PermissionDenied(ResonnxError):
    """The key does not allow this."""

    default_code = "PERMISSION_DENIED"


class Unimplemented(ResonnxError):
    """The server does not have this call, or not for this model."""

    default_code = "UNIMPLEMENTED"


class Overloaded(ResonnxError):
    """The server refused the request under load, or a message exceeds the size limit."""

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(ResonnxError):
    """The server is unreachable, draining or not ready."""

    default_code = "UNAVAILABLE"


class DeadlineExceeded(ResonnxError):
    """No answer within `timeout_s` or `answer_within_s`."""

    default_code = "DEADLINE_EXCEEDED"


class Internal(ResonnxError):
    """The server failed or violated the protocol."""

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
    """Convert the error of a failed call, sync or async.

    Details that cannot be parsed or belong to another domain than "resonnx" are ignored. A stream that a proxy resets,
    as nginx does when it loses the server after the first answer, has no status of the server's: gRPC calls it
    INTERNAL, and it is Unavailable here.
    """
    reason = field = retry_after_s = request_id = None
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        named = error_details_pb2.RequestInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
        elif detail.Unpack(request) and request.field_violations:
            field = request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(named):
            request_id = named.request_id or None
    if (pushback := _trailer(error, "grpc-retry-pushback-ms")) is not None:
        # gRPC's rule: a value that is not a number forbids a retry.
        retry_after_s = int(pushback) / 1e3 if isinstance(pushback, str) and pushback.isdecimal() else None
    code = "UNAVAILABLE" if _was_reset(error) else error.code().name
    return _error(
        code,
        error.details() or code,
        reason=reason,
        field=field,
        retry_after_s=retry_after_s,
        request_id=request_id,
    )


def from_stream(error: vision_pb2.Error) -> ResonnxError:
    """Convert the error of one picture of a ClassifyStream."""
    # As in a call's trailer: a negative number forbids a retry.
    invited = error.HasField("retry_after_ms") and error.retry_after_ms >= 0
    retry_after_s = error.retry_after_ms / 1e3 if invited else None
    request_id = error.request_id or None
    return _error(error.code, error.message, reason=error.reason, retry_after_s=retry_after_s, request_id=request_id)


def from_unreadable(error: OSError | ValueError | InvalidArgument) -> ResonnxError:
    """Convert the error of a picture that cannot be read."""
    if isinstance(error, InvalidArgument):
        return error
    message = (isinstance(error, OSError) and error.strerror) or str(error)
    return _error("INVALID_ARGUMENT", message, reason="IMAGE_UNREADABLE", field="image")


def _was_reset(error: grpc.RpcError) -> bool:
    """Return whether the stream was reset; a failure of the server's own has trailers that name its reason."""
    reset = error.code() is grpc.StatusCode.INTERNAL and _RESET in (error.details() or "")
    return reset and not error.trailing_metadata()


def _details(error: grpc.RpcError) -> Sequence[Any]:
    value = _trailer(error, "grpc-status-details-bin")
    try:
        return list(status_pb2.Status.FromString(value or b"").details)
    except DecodeError:
        return []


def _trailer(error: grpc.RpcError, key: str) -> Any:
    # The metadata of sync and async calls are pairs without a common type.
    trailers: Any = error.trailing_metadata() or ()
    return next((value for name, value in trailers if name == key), None)


def _error(
    code: str,
    message: str,
    *,
    reason: str | None,
    field: str | None = None,
    retry_after_s: float | None = None,
    request_id: str | None = None,
) -> ResonnxError:
    kind = _CLASSES.get(code, ResonnxError)
    exact = ResonnxError._by_reason.get(reason or "")
    if exact is not None and issubclass(exact, kind):
        kind = exact
    return kind(message, code=code, reason=reason, field=field, retry_after_s=retry_after_s, request_id=request_id)
