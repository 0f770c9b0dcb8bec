"""What an export may end in, other than success; the command line turns each into its exit code."""

from resonnx_proto.v1 import manifest_pb2 as pb


class ExportError(Exception):
    """Base of both. The message is one line for the person who started the export."""


class BadInput(ExportError):
    """What was asked for cannot be exported: the checkpoint, the labels, the name or a setting is at fault."""


class ParityFailed(ExportError):
    """The exported graph does not say what PyTorch says, or the check could not tell.

    Attributes:
        check: The comparison that failed, where it was one.
    """

    def __init__(self, message: str, check: pb.ParityCheck | None = None) -> None:
        super().__init__(message)
        self.check = check
