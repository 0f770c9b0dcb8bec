"""The one tree of errors that requests and loading end in; knows no gRPC (rpc/boundary.py maps kinds to codes).

    ServerError
    ├── InvalidInput        the caller's fault: names the field, the value, the limit
    │   ├── BadImage        the picture itself
    │   └── WrongTask       the model is there, and does something else
    ├── NotFound            no such model or version
    │   └── VersionNotFound the model is there, in another version
    ├── NotSupported        the protocol has it, this server does not
    ├── Overloaded          refused to keep promises already made; says when to come back
    │   └── WaitTooLong     behind what waits, the answer would come, or comes, after the caller's deadline
    ├── SlowReader          the caller reads slower than words come
    ├── UnreadableMessage   the bytes of a request are no message of its kind
    ├── MessageTooLarge     a request or an answer over the setting max_message_bytes
    ├── Unavailable         draining or not ready: try elsewhere
    ├── DeadlineExceeded    the caller's time is over
    │   └── DeadlineUnreachable  or will be: even alone on an idle device the request takes longer
    ├── InferenceFailed     the runtime failed; details go to the log only
    └── ModelRefused        a model that must not serve (damaged, disagrees with its golden examples, …)

Messages are for callers: they never hold a path or a traceback of the server.
"""

import math
from typing import ClassVar, Final, Self

# Sooner than this nothing has changed; later, a caller should ask anew rather than trust what was expected.
_RETRY_AFTER_MS: Final = (20, 2000)


class ServerError(Exception):
    """Base of all. `reason` is stable and upper case."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(ServerError):
    """A request that can never succeed as it is. `field` is the request's field."""

    reason = "INVALID_INPUT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class BadImage(InvalidInput):
    """A picture that cannot be read or is too large."""

    reason = "BAD_IMAGE"


class WrongTask(InvalidInput):
    """A model of another task than the call is for."""


class NotFound(ServerError):
    """No such model or version."""

    reason = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    """The model is there, but not in that version."""


class NotSupported(ServerError):
    """Part of the protocol, not of this server."""

    reason = "NOT_SUPPORTED"


class Overloaded(ServerError):
    """Refused for what others have asked for before. `retry_after_ms` is when a place is expected."""

    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    @classmethod
    def for_ns(cls, message: str, wait_ns: float) -> Self:
        """Refuse until `wait_ns` have passed, within bounds."""
        least, most = _RETRY_AFTER_MS
        return cls(message, min(max(math.ceil(wait_ns / 1e6), least), most))


class WaitTooLong(Overloaded):
    """Waiting, the request would miss the caller's deadline. Later it may not have to wait.

    Told on arrival or, where it waits longer than was expected, when its turn comes.
    """

    reason = "WAIT_TOO_LONG"


class SlowReader(ServerError):
    """Ended: the caller did not read its answers in time, and they are not kept without bound."""

    reason = "SLOW_READER"


class UnreadableMessage(ServerError):
    """Bytes that are no message of the call's kind."""

    reason = "MESSAGE_UNREADABLE"


class MessageTooLarge(ServerError):
    """A message that may not travel. `what` is whose it is: "the request" or "the answer"."""

    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} takes {size} bytes, more than the server's max_message_bytes, {limit}")


class Unavailable(ServerError):
    """This server does not take the call now; another may."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(ServerError):
    """The caller's deadline or timeout passed before the answer was there."""

    reason = "DEADLINE_EXCEEDED"


class DeadlineUnreachable(DeadlineExceeded):
    """The deadline is ahead, but nearer than the request takes on an idle device: no waiting is to blame.

    Told on arrival, or once decoding has left too little. Trying again with the same deadline is no use.
    """

    reason = "DEADLINE_UNREACHABLE"


class InferenceFailed(ServerError):
    """The runtime raised, or gave values that are no answer."""

    reason = "INFERENCE_FAILED"


class ModelRefused(ServerError):
    """A model that must not serve. The message is shown by /readyz, ListModels and the log."""

    reason = "MODEL_REFUSED"


def milliseconds(ns: float) -> str:
    """Write a time for people, with its unit: three digits, or all before the point."""
    ms = max(ns, 0.0) / 1e6
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
