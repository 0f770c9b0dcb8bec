"""The methods of a server that the client calls."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from resonnx_proto.inference import grpc_service_pb2 as inference_pb2
from resonnx_proto.v1 import repository_pb2, vision_pb2

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

VISION: Final = "resonnx.v1.Vision"
TENSORS: Final = "inference.GRPCInferenceService"
REPOSITORY: Final = "resonnx.v1.Repository"
HEALTH: Final = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True, eq=False)
class Rpc(Generic[Q, R]):
    """A method of a service.

    Attributes:
        path: E.g. "/resonnx.v1.Vision/Classify".
        request: Type of the request, or of each request of a stream.
        response: Type of the response, or of each response of a stream.
    """

    path: str
    request: type[Q]
    response: type[R]


CLASSIFY: Final = Rpc(f"/{VISION}/Classify", vision_pb2.ClassifyRequest, vision_pb2.ClassifyResponse)
CLASSIFY_STREAM: Final = Rpc(f"/{VISION}/ClassifyStream", vision_pb2.ClassifyRequest, vision_pb2.ClassifyStreamResponse)
CAPTION: Final = Rpc(f"/{VISION}/Caption", vision_pb2.CaptionRequest, vision_pb2.CaptionResponse)
STREAM_CAPTION: Final = Rpc(f"/{VISION}/StreamCaption", vision_pb2.CaptionRequest, vision_pb2.StreamCaptionResponse)
CLASSIFY_VIDEO: Final = Rpc(
    f"/{VISION}/ClassifyVideo", vision_pb2.ClassifyVideoRequest, vision_pb2.ClassifyVideoResponse
)
CLASSIFY_VIDEO_STREAM: Final = Rpc(
    f"/{VISION}/ClassifyVideoStream",
    vision_pb2.ClassifyVideoStreamRequest,
    vision_pb2.ClassifyVideoStreamResponse,
)
LIST_MODELS: Final = Rpc(f"/{VISION}/ListModels", vision_pb2.ListModelsRequest, vision_pb2.ListModelsResponse)
GET_MODEL: Final = Rpc(f"/{VISION}/GetModel", vision_pb2.GetModelRequest, vision_pb2.GetModelResponse)

REPOSITORY_INDEX: Final = Rpc(
    f"/{TENSORS}/RepositoryIndex", inference_pb2.RepositoryIndexRequest, inference_pb2.RepositoryIndexResponse
)
LOAD_MODEL: Final = Rpc(
    f"/{TENSORS}/RepositoryModelLoad",
    inference_pb2.RepositoryModelLoadRequest,
    inference_pb2.RepositoryModelLoadResponse,
)
UNLOAD_MODEL: Final = Rpc(
    f"/{TENSORS}/RepositoryModelUnload",
    inference_pb2.RepositoryModelUnloadRequest,
    inference_pb2.RepositoryModelUnloadResponse,
)

START_COMPARISON: Final = Rpc(
    f"/{REPOSITORY}/StartComparison", repository_pb2.StartComparisonRequest, repository_pb2.StartComparisonResponse
)
PROMOTE: Final = Rpc(f"/{REPOSITORY}/Promote", repository_pb2.PromoteRequest, repository_pb2.PromoteResponse)
ROLLBACK: Final = Rpc(f"/{REPOSITORY}/Rollback", repository_pb2.RollbackRequest, repository_pb2.RollbackResponse)
COMPARISONS: Final = Rpc(f"/{REPOSITORY}/Status", repository_pb2.StatusRequest, repository_pb2.StatusResponse)

CHECK_HEALTH: Final = Rpc(f"/{HEALTH}/Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse)
WATCH_HEALTH: Final = Rpc(f"/{HEALTH}/Watch", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse)
