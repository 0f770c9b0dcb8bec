"""All errors of requests and loads. They know no gRPC; rpc/boundary.py maps them to status codes.

Messages are for callers: they never hold a path or a traceback of the server.
"""

import math
from enum import StrEnum
from typing import ClassVar, Final, Self

# Bounds of retry hints: nothing changes sooner, and predictions beyond are unreliable.
_RETRY_AFTER_MS: Final = (20, 2000)


class FailureReason(StrEnum):
    """Why a request failed; Triton's values of the label `reason`."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


class ServerError(Exception):
    """Base class. `reason` is stable and in upper case; `failure` groups reasons as Triton does."""

    reason: ClassVar[str] = "INTERNAL"
    failure: ClassVar[FailureReason] = FailureReason.OTHER

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @classmethod
    def hidden(cls, incident: str, message: str = "internal error") -> Self:
        """Return the error for a failure whose cause is in the log only, under the incident's id."""
        return cls(f"{message} (incident {incident})")


class InvalidInput(ServerError):
    """A request that can never succeed. `field` names the request's field."""

    reason = "INVALID_INPUT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class BadImage(InvalidInput):
    """A picture that cannot be decoded or is too large."""

    reason = "BAD_IMAGE"


class WrongTask(InvalidInput):
    """The model has another task than the call."""


class NotFound(ServerError):
    """No such model or version."""

    reason = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    """The model has no such version."""


class RegionNotFound(NotFound):
    """The caller has no such region of shared memory."""

    reason = "REGION_NOT_FOUND"


class AlreadyExists(ServerError):
    """There is one of this name already."""

    reason = "ALREADY_EXISTS"


class NotSupported(ServerError):
    """Part of the protocol that this server lacks."""

    reason = "NOT_SUPPORTED"


class NoHeatmaps(NotSupported):
    """The model has no heatmaps."""

    reason = "NO_HEATMAPS"


class Unauthenticated(ServerError):
    """Keys are set, and the caller did not show one that is known."""

    reason = "UNAUTHENTICATED"


class KeyMissing(Unauthenticated):
    """The call has no key."""

    reason = "KEY_MISSING"

    def __init__(self) -> None:
        super().__init__("this server needs a key: send the metadata `authorization: Bearer KEY`")


class KeyUnknown(Unauthenticated):
    """The call has a key that is not among the server's."""

    reason = "KEY_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("the key in the metadata `authorization: Bearer KEY` is not among the server's keys")


class CertificateMissing(Unauthenticated):
    """No keys are set, and the caller has no certificate."""

    reason = "CERTIFICATE_MISSING"

    def __init__(self) -> None:
        super().__init__("this server needs a client certificate of an authority that it trusts")


class CertificateUnknown(Unauthenticated):
    """The call has no key, and the name in the client's certificate is not among the server's keys."""

    reason = "CERTIFICATE_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("this server needs a key, or a client certificate that its keys file names")


class PermissionDenied(ServerError):
    """The caller is known, and may not do this. `caller` is its name, for the log; None if it is not known here."""

    reason = "PERMISSION_DENIED"
    caller: str | None = None


class RoleMissing(PermissionDenied):
    """The caller lacks the method's role."""

    reason = "ROLE_MISSING"

    def __init__(self, role: str, caller: str) -> None:
        super().__init__(f"this method needs a key with the role {role}")
        self.caller = caller


class AdminElsewhere(PermissionDenied):
    """An admin method is called on a port that does not serve these."""

    reason = "ADMIN_PORT_ONLY"

    def __init__(self, caller: str) -> None:
        super().__init__("this method is served on the admin port only (admin_port; or admin_on_main with a key)")
        self.caller = caller


class ModelNotAllowed(PermissionDenied):
    """The caller's key is limited to other models."""

    reason = "MODEL_NOT_ALLOWED"

    def __init__(self, model: str) -> None:
        super().__init__(f"this key may not use a model {model[:64]!r}")


class PriorityNotAllowed(PermissionDenied):
    """The caller's key does not allow so urgent a priority."""

    reason = "PRIORITY_NOT_ALLOWED"

    def __init__(self, priority: int, best: int) -> None:
        super().__init__(f"priority {priority} is more urgent than {best}, the most urgent that this key allows")


class Overloaded(ServerError):
    """The queue is full. `retry_after_ms` is the retry hint, in milliseconds."""

    reason = "QUEUE_FULL"
    failure = FailureReason.REJECTED

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    @classmethod
    def for_ns(cls, message: str, wait_ns: float) -> Self:
        """Return the error with a retry hint of `wait_ns`, within bounds."""
        least, most = _RETRY_AFTER_MS
        return cls(message, min(max(math.ceil(wait_ns / 1e6), least), most))


class WaitTooLong(Overloaded):
    """The request would miss its deadline because of the queue, so a later one may succeed.

    Raised on arrival, or when the request's turn comes too late.
    """

    reason = "WAIT_TOO_LONG"


class RateLimited(Overloaded):
    """The caller sends more requests a second than its key allows, or has too many in progress."""

    reason = "RATE_LIMITED"


class MemorySpent(Overloaded):
    """The server's memory budget, or the caller's share of it, is spent."""

    reason = "MEMORY_SPENT"


class TooSlow(ServerError):
    """The caller did not send its request in time."""

    reason = "REQUEST_TOO_SLOW"
    failure = FailureReason.REJECTED


class SlowReader(ServerError):
    """The caller did not read its responses in time; the buffer for them is bounded."""

    reason = "SLOW_READER"


class UnreadableMessage(ServerError):
    """A request that is not a message of the call's type."""

    reason = "MESSAGE_UNREADABLE"


class MessageTooLarge(ServerError):
    """A message above the limit. `what` is "the request" or "the answer"."""

    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} has {size} bytes, more than the server's max_message_bytes, {limit}")


class TooLargeUnpacked(MessageTooLarge):
    """A packed request that unpacks to more than the limit."""

    def __init__(self, limit: int) -> None:
        most = f"{limit} bytes, the limit of this call (max_message_bytes if it takes pictures or tensors)"
        ServerError.__init__(self, f"the request unpacks to more than {most}")


class Unavailable(ServerError):
    """This server does not accept calls now; another may."""

    reason = "UNAVAILABLE"
    failure = FailureReason.REJECTED


class DeadlineExceeded(ServerError):
    """The request's deadline or timeout has passed."""

    reason = "DEADLINE_EXCEEDED"
    failure = FailureReason.REJECTED


class DeadlineUnreachable(DeadlineExceeded):
    """The request would miss its deadline even on an idle device, so a retry with the same deadline is no use.

    Raised on arrival, or after decoding.
    """

    reason = "DEADLINE_UNREACHABLE"


class InferenceFailed(ServerError):
    """The runtime failed, or its outputs are not valid."""

    reason = "INFERENCE_FAILED"
    failure = FailureReason.BACKEND


class InferenceHung(InferenceFailed):
    """A run took far longer than expected and was given up. A retry is safe, as a request changes nothing."""

    reason = "INFERENCE_HUNG"

    def __init__(self) -> None:
        super().__init__(
            "the model's run took far longer than expected and was given up; "
            "a retry is safe, as a request changes nothing on the server"
        )


class ModelRefused(ServerError):
    """A model that must not serve. /readyz, ListModels and the log show the message."""

    reason = "MODEL_REFUSED"
