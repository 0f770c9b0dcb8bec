"""Requests and responses of health and of the model repository."""

from grpc_health.v1 import health_pb2
from resonnx_proto.inference import grpc_service_pb2 as inference_pb2

from resonnx._messages import named_version
from resonnx._results import Health, RepositoryModel
from resonnx._rpcs import VISION


def health_request(model: str | None, version: int | str | None) -> health_pb2.HealthCheckRequest:
    """Build a request; raises ValueError if a version is given twice, or without a model."""
    if model is None:
        if version is not None:
            raise ValueError(f"version {version!r} is given without a model")
        return health_pb2.HealthCheckRequest()
    name, number, label = named_version(model, version)
    suffix = label or (str(number) if number else "")
    return health_pb2.HealthCheckRequest(service=f"{VISION}/{name}" + (f":{suffix}" if suffix else ""))


def health(response: health_pb2.HealthCheckResponse) -> Health:
    """Read a response."""
    match response.status:
        case health_pb2.HealthCheckResponse.SERVING:
            return Health.SERVING
        case health_pb2.HealthCheckResponse.NOT_SERVING:
            return Health.NOT_SERVING
    return Health.UNKNOWN


def repository_request(ready: bool) -> inference_pb2.RepositoryIndexRequest:
    """Build a request of all versions, or of those that serve."""
    return inference_pb2.RepositoryIndexRequest(ready=ready)


def repository_models(response: inference_pb2.RepositoryIndexResponse) -> tuple[RepositoryModel, ...]:
    """Read the index, in its order."""
    return tuple(RepositoryModel(it.name, it.version, it.state.lower(), it.reason) for it in response.models)


def load_request(name: str) -> inference_pb2.RepositoryModelLoadRequest:
    """Build a request."""
    return inference_pb2.RepositoryModelLoadRequest(model_name=name)


def unload_request(name: str) -> inference_pb2.RepositoryModelUnloadRequest:
    """Build a request."""
    return inference_pb2.RepositoryModelUnloadRequest(model_name=name)
