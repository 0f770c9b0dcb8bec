"""The base of all errors."""

from enum import StrEnum
from typing import ClassVar, Self


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
