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
# Reasons that are more specific than those in responses.
_SPECIFIC: Final[dict[type[ServerError], str]] = {VersionNotFound: "VERSION_NOT_FOUND", WrongTask: "WRONG_TASK"}
_UNKNOWN_METHOD: Final = "METHOD_UNKNOWN"


class RejectedCalls:
    """Counts calls that end with an error before a model got them.

    Attributes:
        counts: Calls by reason.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys([*(_SPECIFIC.get(kind, kind.reason) for kind in _KINDS), _UNKNOWN_METHOD], 0)

    def count(self, error: ServerError) -> None:
        """Count a call that fails with `error`."""
        reason = _SPECIFIC.get(type(error), error.reason)
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def unknown_method(self) -> None:
        """Count a call of an unknown method."""
        self.counts[_UNKNOWN_METHOD] += 1
