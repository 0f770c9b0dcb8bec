"""Several servers behind nginx, and behind clients that ask all addresses of a name: equal shares, and no call lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from resonnx._errors import from_rpc_error
from resonnx._transport.channel import options
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..conftest import StartServer
from ..server import bare_graphs
from .names import name_server
from .replicas import NGINX, Replicas, load, nginx, once, replicas, request

_needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

Way = Callable[[Replicas], AbstractAsyncContextManager[str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that doubles three numbers."""
    folder = tmp_path / "models/double/1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bare_graphs.doubling())
    return tmp_path / "models"


@pytest.fixture(params=[pytest.param("nginx", marks=_needs_nginx), "name"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    """How clients come to the servers; the value is the target for gRPC."""

    @asynccontextmanager
    async def by_name(servers: Replicas) -> AsyncIterator[str]:
        with name_server(servers.addresses) as names:
            yield f"dns://127.0.0.1:{names}/replicas.test:{servers.port}"

    return by_name if request.param == "name" else lambda servers: nginx(servers, tmp_path)


async def test_no_call_fails_when_a_server_stops(start_server: StartServer, repository: Path, way: Way) -> None:
    """The short form of the next test."""
    async with (
        replicas(start_server, repository, 2, "--drain-delay-s", "0.3") as servers,
        way(servers) as target,
        load(once(target)) as calls,
    ):
        for address in servers.addresses:
            await servers.serves(address)
        assert await servers.stop(servers.addresses[0]) == 0
        await calls.more(20)
    assert set(calls.codes) == {"OK"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("front", ["core", "aio"])
async def test_shares_are_equal_and_no_call_fails_while_all_restart(
    start_server: StartServer, repository: Path, way: Way, front: str
) -> None:
    """One after the other, under load."""
    variables = {"RESONNX_GRPC_FRONT": front, "RESONNX_LISTEN_WHEN": "loaded"}
    async with (
        replicas(start_server, repository, 3, "--drain-delay-s", "1", **variables) as servers,
        way(servers) as target,
        load(once(target)) as calls,
    ):
        for address in servers.addresses:
            await servers.serves(address)
        before = [await servers.answered(address) for address in servers.addresses]
        await calls.more(1500)
        after = [await servers.answered(address) for address in servers.addresses]
        shares = np.subtract(after, before)
        assert np.ptp(shares) <= 0.15 * np.mean(shares), shares
        await servers.restart_all()
        await calls.more(100)
    print(front, shares, dict(calls.codes))
    assert set(calls.codes) == {"OK"}


async def _next(stream: Any) -> str:
    """Send one more request over a stream; returns the status that the stream has then for users of our client."""
    try:
        await stream.write(request(2))
        answer = await stream.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        code, details, trailers = await stream.code(), await stream.details(), await stream.trailing_metadata()
        return from_rpc_error(grpc.aio.AioRpcError(code, trailing_metadata=trailers, details=details)).code
    return "OK" if answer.infer_response.id == "2" else "ended"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_server_that_is_killed_loses_no_call_of_clients_that_repeat(
    start_server: StartServer, repository: Path, way: Way
) -> None:
    """But a stream that it has answered ends."""
    async with replicas(start_server, repository, 3, RESONNX_LISTEN_WHEN="loaded") as servers, way(servers) as target:
        given = options(target, alone=True, first=True)
        async with load(grpc.aio.insecure_channel(target, options=given)) as calls:
            for address in servers.addresses:
                await servers.serves(address)
            # Over the connections to all servers that there are by now.
            infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(calls.channel).ModelStreamInfer
            streams = [infer() for _ in range(9)]
            for stream in streams:
                await stream.write(request(1))
                assert (await stream.read()).infer_response.id == "1"
            servers.kill(servers.addresses[1])
            await calls.more(300)
            codes = [await _next(stream) for stream in streams]
            for stream in streams:
                stream.cancel()
            await servers.start(servers.addresses[1])
            await servers.serves(servers.addresses[1])
    print(codes, dict(calls.codes))
    assert set(calls.codes) == {"OK"}
    assert set(codes) == {"OK", "UNAVAILABLE"}
