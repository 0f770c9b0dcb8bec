"""The role that each method needs; one that is not listed needs the role `admin`."""

from collections.abc import Mapping
from typing import Final

from grpc_health.v1 import health_pb2
from resonnx_proto.inference import grpc_service_pb2
from resonnx_proto.v1 import repository_pb2, vision_pb2

from resonnx_server.access.caller import Role

_VISION: Final = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name
_TENSORS: Final = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_REPOSITORY: Final = repository_pb2.DESCRIPTOR.services_by_name["Repository"].full_name
HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION: Final = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")

_BY_SERVICE: Final[Mapping[str, Mapping[Role, tuple[str, ...]]]] = {
    _VISION: {
        Role.INFER: (
            "Classify",
            "ClassifyStream",
            "Caption",
            "StreamCaption",
            "ClassifyVideo",
            "ClassifyVideoStream",
        ),
        Role.READ: ("ListModels", "GetModel"),
    },
    _TENSORS: {
        Role.INFER: ("ModelInfer", "ModelStreamInfer"),
        Role.READ: (
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
        ),
        Role.ADMIN: (
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
            "TraceSetting",
            "LogSettings",
        ),
    },
    _REPOSITORY: {Role.ADMIN: ("StartComparison", "Promote", "Rollback", "Status")},
    HEALTH: {Role.READ: ("Check", "Watch")},
    **{service: {Role.READ: ("ServerReflectionInfo",)} for service in REFLECTION},
}
# By the method's path.
ROLES: Final[Mapping[str, Role]] = {
    f"/{service}/{method}": role
    for service, roles in _BY_SERVICE.items()
    for role, methods in roles.items()
    for method in methods
}
