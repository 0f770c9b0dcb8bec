"""The table of methods and roles is complete, and nothing is served beside it."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from resonnx_proto.inference import grpc_service_pb2
from resonnx_proto.v1 import repository_pb2, vision_pb2
from resonnx_server.access.caller import Role
from resonnx_server.access.policy import Policy
from resonnx_server.config import Settings
from resonnx_server.inference.registry import Models
from resonnx_server.memory.budget import Budget
from resonnx_server.rpc.comparisons import RepositoryServicer
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.roles import REFLECTION, ROLES
from resonnx_server.rpc.server import ConnectionLimits, GrpcServer
from resonnx_server.rpc.vision.servicer import VisionServicer

FILES: tuple[Any, ...] = (vision_pb2, repository_pb2, grpc_service_pb2, health_pb2)
SERVICES: list[ServiceDescriptor] = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]


def test_every_method_of_every_service_has_a_role() -> None:
    methods = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    assert methods | {f"/{service}/ServerReflectionInfo" for service in REFLECTION} == {*ROLES}


def test_methods_that_change_the_server_need_the_role_admin() -> None:
    """A new method whose name begins like these is not left to the role that its author had in mind."""
    changing = ("RepositoryModel", "SystemSharedMemory", "CudaSharedMemory", "TraceSetting", "LogSettings")
    for path, role in ROLES.items():
        service, _, method = path.rpartition("/")
        assert (role is Role.ADMIN) == (method.startswith(changing) or service == "/resonnx.v1.Repository"), path


@pytest.mark.parametrize("front", ["core", "aio"])
@pytest.mark.parametrize("reflection", [True, False])
async def test_all_ports_serve_these_methods_and_no_others(front: Any, reflection: bool) -> None:
    inference = Mock(InferenceServicer, rejected=Mock(), models=Models())
    policy = Policy(Settings(repository=Path(), admin_port=0))
    server = GrpcServer(
        Mock(VisionServicer),
        inference,
        Mock(RepositoryServicer),
        front,
        1 << 20,
        ConnectionLimits(100, 0),
        Budget(1 << 30),
        policy,
        reflection=reflection,
    )
    await server.start("127.0.0.1", 0)
    await server.start_admin("127.0.0.1", 0)
    hidden = set() if reflection else {path for path in ROLES if path.startswith("/grpc.reflection.")}
    main, admin = server._fronts
    assert main._handlers.keys() == admin._handlers.keys() == {*ROLES} - hidden
    await server.stop(0)
