"""Exceptions by the reason of a failure: each is a subclass of that of its status.

InvalidArgument
├── BadImage              BAD_IMAGE: the server cannot decode the picture, or it is too large
├── BadClip               BAD_CLIP: the server cannot decode the clip, or it is too long or too large
└── UnreadableImage       IMAGE_UNREADABLE: the client cannot read the picture; nothing was sent
NotFound
├── ModelNotFound         MODEL_NOT_FOUND: no such model, version or label
└── RegionNotFound        REGION_NOT_FOUND: no such region of shared memory
FailedPrecondition
└── ModelRefused          MODEL_REFUSED: the model must not serve
Unimplemented
└── NoHeatmaps            NO_HEATMAPS: the model has no heatmaps
Unauthenticated
├── KeyMissing            KEY_MISSING
├── KeyUnknown            KEY_UNKNOWN
├── CertificateMissing    CERTIFICATE_MISSING
└── CertificateUnknown    CERTIFICATE_UNKNOWN
PermissionDenied
├── RoleMissing           ROLE_MISSING: the key does not allow this method
├── AdminPortOnly         ADMIN_PORT_ONLY: the method is served at the admin address
├── ModelNotAllowed       MODEL_NOT_ALLOWED
└── PriorityNotAllowed    PRIORITY_NOT_ALLOWED
Overloaded
├── QueueFull             QUEUE_FULL
├── WaitTooLong           WAIT_TOO_LONG: the queue leaves too little time before the deadline
├── RateLimited           RATE_LIMITED: by the limits of the key or the connection
├── MemorySpent           MEMORY_SPENT
├── MessageTooLarge       MESSAGE_TOO_LARGE: never accepted, so without retry_after_s
├── ClipTooCostly         CLIP_TOO_COSTLY: to decode the clip takes too much time or memory; without retry_after_s
└── SlowReader            SLOW_READER: the answers of a stream were not read in time
DeadlineExceeded
├── DeadlineUnreachable   DEADLINE_UNREACHABLE: the request takes longer even on an idle server
└── RequestTooSlow        REQUEST_TOO_SLOW: the server did not get the whole request in time
Internal
├── UnreadableMessage     MESSAGE_UNREADABLE: the request is not a message of the method's type
└── InferenceFailed       INFERENCE_FAILED
└── InferenceHung     INFERENCE_HUNG: a run took far too long and was given up; a retry is safe
"""

from typing import ClassVar

from resonnx._errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)


class BadImage(InvalidArgument):
    """The server cannot decode the picture, or it is too large."""

    default_reason: ClassVar[str | None] = "BAD_IMAGE"


class BadClip(InvalidArgument):
    """The server cannot decode the clip, or it is too long or too large."""

    default_reason: ClassVar[str | None] = "BAD_CLIP"


class UnreadableImage(InvalidArgument):
    """The client cannot read the picture."""

    default_reason: ClassVar[str | None] = "IMAGE_UNREADABLE"


class ModelNotFound(NotFound):
    """No such model, version or label."""

    default_reason: ClassVar[str | None] = "MODEL_NOT_FOUND"


class RegionNotFound(NotFound):
    """No such region of shared memory."""

    default_reason: ClassVar[str | None] = "REGION_NOT_FOUND"


class ModelRefused(FailedPrecondition):
    """The model must not serve; the message says why."""

    default_reason: ClassVar[str | None] = "MODEL_REFUSED"


class NoHeatmaps(Unimplemented):
    """The model has no heatmaps; the message says why."""

    default_reason: ClassVar[str | None] = "NO_HEATMAPS"


class KeyMissing(Unauthenticated):
    """The server needs a key."""

    default_reason: ClassVar[str | None] = "KEY_MISSING"


class KeyUnknown(Unauthenticated):
    """The key is not among the server's."""

    default_reason: ClassVar[str | None] = "KEY_UNKNOWN"


class CertificateMissing(Unauthenticated):
    """The server needs a client certificate."""

    default_reason: ClassVar[str | None] = "CERTIFICATE_MISSING"


class CertificateUnknown(Unauthenticated):
    """The name in the client's certificate is not known to the server."""

    default_reason: ClassVar[str | None] = "CERTIFICATE_UNKNOWN"


class RoleMissing(PermissionDenied):
    """The key does not allow this method."""

    default_reason: ClassVar[str | None] = "ROLE_MISSING"


class AdminPortOnly(PermissionDenied):
    """The method is served at the server's admin address."""

    default_reason: ClassVar[str | None] = "ADMIN_PORT_ONLY"


class ModelNotAllowed(PermissionDenied):
    """The key is limited to other models."""

    default_reason: ClassVar[str | None] = "MODEL_NOT_ALLOWED"


class PriorityNotAllowed(PermissionDenied):
    """The key does not allow so urgent a priority."""

    default_reason: ClassVar[str | None] = "PRIORITY_NOT_ALLOWED"


class QueueFull(Overloaded):
    """The queue is full."""

    default_reason: ClassVar[str | None] = "QUEUE_FULL"


class WaitTooLong(Overloaded):
    """The queue leaves too little time before the deadline."""

    default_reason: ClassVar[str | None] = "WAIT_TOO_LONG"


class RateLimited(Overloaded):
    """The caller sends more than its key or connection allows."""

    default_reason: ClassVar[str | None] = "RATE_LIMITED"


class MemorySpent(Overloaded):
    """The server's memory for requests, or the caller's share of it, is spent."""

    default_reason: ClassVar[str | None] = "MEMORY_SPENT"


class MessageTooLarge(Overloaded):
    """A request or an answer is above the size limit."""

    default_reason: ClassVar[str | None] = "MESSAGE_TOO_LARGE"


class ClipTooCostly(Overloaded):
    """To decode the clip takes more time or memory than the server allows."""

    default_reason: ClassVar[str | None] = "CLIP_TOO_COSTLY"


class SlowReader(Overloaded):
    """The answers of a stream were not read in time."""

    default_reason: ClassVar[str | None] = "SLOW_READER"


class DeadlineUnreachable(DeadlineExceeded):
    """The request takes longer than its deadline allows even on an idle server."""

    default_reason: ClassVar[str | None] = "DEADLINE_UNREACHABLE"


class RequestTooSlow(DeadlineExceeded):
    """The server did not get the whole request in time."""

    default_reason: ClassVar[str | None] = "REQUEST_TOO_SLOW"


class UnreadableMessage(Internal):
    """The server could not read the request as a message of the method's type."""

    default_reason: ClassVar[str | None] = "MESSAGE_UNREADABLE"


class InferenceFailed(Internal):
    """The model's run failed, or its outputs are not valid."""

    default_reason: ClassVar[str | None] = "INFERENCE_FAILED"


class InferenceHung(InferenceFailed):
    """The model's run took far too long and was given up; a retry is safe."""

    default_reason: ClassVar[str | None] = "INFERENCE_HUNG"
