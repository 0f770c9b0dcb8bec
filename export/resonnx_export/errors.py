"""The errors that an export may end with; the command line maps each to its exit code."""

from resonnx_proto.v1 import manifest_pb2 as pb


class ExportError(Exception):
    """Base class. The message is one line for the user."""


class BadInput(ExportError):
    """The checkpoint, the labels, the name or a setting cannot be exported."""


class ParityFailed(ExportError):
    """The exported graph does not give PyTorch's outputs, or the check could not decide.

    Attributes:
        check: The comparison that failed; None if something else did.
    """

    def __init__(self, message: str, check: pb.ParityCheck | None = None) -> None:
        super().__init__(message)
        self.check = check
