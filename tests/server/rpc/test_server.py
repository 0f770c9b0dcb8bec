"""The gRPC port of a server without models: its health, and its end."""

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_server.access.policy import Policy
from resonnx_server.config import Settings
from resonnx_server.inference.registry import Models
from resonnx_server.memory.budget import Budget
from resonnx_server.rpc.comparisons import RepositoryServicer
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.server import SERVICES, ConnectionLimits, GrpcServer
from resonnx_server.rpc.vision.servicer import VisionServicer

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("front", ["core", "aio"])
async def test_after_the_drain_nothing_serves_and_after_the_stop_nothing_listens(front: Any) -> None:
    inference = Mock(InferenceServicer, rejected=Mock(), models=Models())
    policy = Policy(Settings(repository=Path()))
    limits, budget = ConnectionLimits(64, 0), Budget(1 << 30)
    vision, repository = Mock(VisionServicer), Mock(RepositoryServicer)
    server = GrpcServer(vision, inference, repository, front, 1 << 20, limits, budget, policy, reflection=False)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        services = ["", *SERVICES, f"{SERVICES[0]}/a", f"{SERVICES[0]}/b"]

        async def statuses() -> list[int]:
            requests = [health_pb2.HealthCheckRequest(service=service) for service in services]
            return [(await check(request, timeout=20)).status for request in requests]

        server.set_serving({"a": True, "b": False}, ready=True)
        assert await statuses() == [SERVING] * 4 + [NOT_SERVING]
        server.drain()
        assert await statuses() == [NOT_SERVING] * 5
        server.set_serving({"a": True, "b": True}, ready=True)
        assert await statuses() == [NOT_SERVING] * 5, "a drain is final"
        await asyncio.wait_for(server.stop(0), 20)
    with socket.socket() as connection:
        assert connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
