"""Counts calls that end with an error that no model counts, by reason. Thread-safe.

The requested name is not a label: each misspelling would add a series.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from resonnx_server.errors import (
    AdminElsewhere,
    AlreadyExists,
    CertificateMissing,
    CertificateUnknown,
    DeadlineExceeded,
    InvalidInput,
    KeyMissing,
    KeyUnknown,
    MemorySpent,
    MessageTooLarge,
    ModelNotAllowed,
    ModelRefused,
    NotFound,
    NotSupported,
    RateLimited,
    RegionNotFound,
    RoleMissing,
    ServerError,
    SlowReader,
    TooSlow,
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
    RegionNotFound,
    AlreadyExists,
    NotSupported,
    Unavailable,
    MemorySpent,
    TooSlow,
    SlowReader,
    DeadlineExceeded,
    MessageTooLarge,
    UnreadableMessage,
    InvalidInput,
    KeyMissing,
    KeyUnknown,
    CertificateMissing,
    CertificateUnknown,
    RoleMissing,
    AdminElsewhere,
    ModelNotAllowed,
    RateLimited,
    ServerError,
)
# Reasons that are more specific than those in responses.
_SPECIFIC: Final[dict[type[ServerError], str]] = {VersionNotFound: "VERSION_NOT_FOUND", WrongTask: "WRONG_TASK"}
_UNKNOWN_METHOD: Final = "METHOD_UNKNOWN"


class RejectedCalls:
    """Counts calls that end with an error that no model counts: most before a model is found.

    Attributes:
        counts: Calls by reason.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts = dict.fromkeys([*(_SPECIFIC.get(kind, kind.reason) for kind in _KINDS), _UNKNOWN_METHOD], 0)

    def count(self, error: ServerError) -> None:
        """Count a call that fails with `error`."""
        reason = _SPECIFIC.get(type(error), error.reason)
        self._add(reason)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a call that fails with a ServerError in the block."""
        try:
            yield
        except ServerError as error:
            self.count(error)
            raise

    def unknown_method(self) -> None:
        """Count a call of an unknown method."""
        self._add(_UNKNOWN_METHOD)

    def _add(self, reason: str) -> None:
        with self._lock:
            self.counts[reason] = self.counts.get(reason, 0) + 1
