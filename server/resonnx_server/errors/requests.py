"""Requests and models that fail: what cannot succeed, what may later, and what is the server's own fault."""

import math
from typing import Final, Self

from resonnx_server.errors.base import FailureReason, ServerError

# Bounds of retry hints: nothing changes sooner, and predictions beyond are unreliable.
_RETRY_AFTER_MS: Final = (20, 2000)


class InvalidInput(ServerError):
    """A request that can never succeed. `field` names the request's field."""

    reason = "INVALID_INPUT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class BadImage(InvalidInput):
    """A picture that cannot be decoded or is too large."""

    reason = "BAD_IMAGE"


class BadClip(InvalidInput):
    """A clip that cannot be decoded, or whose header announces more than a limit allows."""

    reason = "BAD_CLIP"


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


class ClipTooCostly(ServerError):
    """A clip whose decoding takes more time or memory than a limit allows, which its header does not tell."""

    reason = "CLIP_TOO_COSTLY"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


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
