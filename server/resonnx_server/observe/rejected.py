"""Counts calls that fail before their model is known, by reason. Event loop only.

The requested name is not a label: each misspelling would add a series.
"""

from typing import Final

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

# Reported from the start: a series that begins at its first failure shows no increase.
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
    """Counts calls that end with an error before a model got them.

    Attributes:
        counts: Calls by reason.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys([*map(_reason, _KINDS), _UNKNOWN_METHOD], 0)

    def count(self, error: ServerError) -> None:
        """Count a call that fails with `error`."""
        reason = _reason(type(error))
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def unknown_method(self) -> None:
        """Count a call of an unknown method."""
        self.counts[_UNKNOWN_METHOD] += 1


def _reason(kind: type[ServerError]) -> str:
    """Return the reason in the response, or a more specific one: which name was not found, or a wrong task."""
    if issubclass(kind, VersionNotFound):
        return "VERSION_NOT_FOUND"
    return "WRONG_TASK" if issubclass(kind, WrongTask) else kind.reason
