"""Calls that end with an error before any model has them, by reason. Owned by the event loop.

What callers name is no label: a name that no model has, counted under itself, would be a series for each misspelling.
"""

from types import TracebackType
from typing import Final, Self

from resonnx_server.errors import (
    InvalidInput,
    MessageTooLarge,
    ModelRefused,
    NotFound,
    NotSupported,
    ServerError,
    Unavailable,
    UnreadableMessage,
    VersionNotFound,
    WrongTask,
)

# All that there are, reported from the start: a series that begins with its first failure shows no increase.
_KINDS: Final = (
    NotFound,
    VersionNotFound,
    ModelRefused,
    WrongTask,
    NotSupported,
    Unavailable,
    MessageTooLarge,
    UnreadableMessage,
    InvalidInput,
)
_UNKNOWN_METHOD: Final = "METHOD_UNKNOWN"


class RejectedCalls:
    """Counts calls: `with rejected.counting(): …` around what finds a call's model.

    Attributes:
        counts: How many, by reason.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys([*map(_reason, _KINDS), _UNKNOWN_METHOD], 0)

    def count(self, error: ServerError) -> None:
        """Count a call that ends with `error`."""
        reason = _reason(type(error))
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def unknown_method(self) -> None:
        """Count a call of a method that this server does not know."""
        self.counts[_UNKNOWN_METHOD] += 1

    def counting(self) -> Self:
        """Return what counts the error that its block ends with, if it does."""
        return self

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ServerError):
            self.count(error)


def _reason(kind: type[ServerError]) -> str:
    """Return a kind's reason, as callers are told it except where metrics tell more: which name was not found."""
    if issubclass(kind, VersionNotFound):
        return "VERSION_NOT_FOUND"
    return "WRONG_TASK" if issubclass(kind, WrongTask) else kind.reason
