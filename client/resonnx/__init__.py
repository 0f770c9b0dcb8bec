"""Client of a resonnx server: classifies and captions pictures.

with Client("localhost:8001") as client:
    print(client.classify("cat.jpg", "resnet50").predictions[0].label)
"""

from resonnx_proto import __version__

from resonnx._caption_options import CaptionOptions
from resonnx._clients.client import AsyncClient, Client
from resonnx._errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResonnxError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from resonnx._pictures.images import ImageSource
from resonnx._results import (
    Assumption,
    BatchLatency,
    Caption,
    CaptionResult,
    Classification,
    Health,
    Limits,
    ModelInfo,
    ModelSummary,
    PictureSettings,
    Prediction,
    RepositoryModel,
    SessionInfo,
    TensorInfo,
    Timing,
    Word,
)
from resonnx._transport.access import Tls

__all__ = [
    "Assumption",
    "AsyncClient",
    "BatchLatency",
    "Cancelled",
    "Caption",
    "CaptionOptions",
    "CaptionResult",
    "Classification",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Health",
    "ImageSource",
    "Internal",
    "InvalidArgument",
    "Limits",
    "ModelInfo",
    "ModelSummary",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "PictureSettings",
    "Prediction",
    "RepositoryModel",
    "ResonnxError",
    "SessionInfo",
    "TensorInfo",
    "Timing",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Word",
    "__version__",
]
