"""A client with hundreds of calls in flight takes all the time and the whole queue: others keep their part of both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..server import bare_graphs
from .network.source_address import through

FLOOD = 80
GOOD = 10
# Runs of some ms: the calls wait for the device, not for the client.
TIMES = 8_000


def _request(times: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="endless", raw_input_contents=[np.array([times]).tobytes()])
    request.inputs.add(name="times", datatype="INT64", shape=[1])
    return request


# Asks once, and returns whether it was answered; False where the server had no room.
Ask = Callable[[], Awaitable[bool]]


@asynccontextmanager
async def _by_grpc(address: str) -> AsyncIterator[Ask]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def ask() -> bool:
            try:
                await stub.ModelInfer(_request(TIMES), timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return False
            return True

        yield ask


@asynccontextmanager
async def _by_http(address: str) -> AsyncIterator[Ask]:
    tensor = {"name": "times", "datatype": "INT64", "shape": [1], "data": [TIMES]}
    url = f"http://{address}/v2/models/endless/infer"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> bool:
            async with session.post(url, json={"inputs": [tensor]}) as answer:
                assert answer.status in (200, 503)
                return answer.status == 200

        yield ask


async def _others_before_each(
    server: str, flood_size: int, by: Callable[[str], AbstractAsyncContextManager[Ask]] = _by_grpc
) -> list[int]:
    """Return for each of some single calls of one client how many calls of another were answered during it."""
    answered = 0

    async def flood(ask: Ask) -> None:
        nonlocal answered
        while True:
            if await ask():
                answered += 1
            else:
                await asyncio.sleep(0.05)

    during = []
    async with through("127.0.0.2", server) as relay, by(relay) as theirs, by(server) as ours:
        flooding = [asyncio.create_task(flood(theirs)) for _ in range(flood_size)]
        while not answered:
            await asyncio.sleep(0.01)
        for _ in range(GOOD):
            before = answered
            assert await ours()
            during.append(answered - before)
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
    return during


@pytest.mark.parametrize(
    ("front", "queue"),
    [
        pytest.param("core", 40, id="core-full"),
        *(
            pytest.param(front, queue, id=f"{front}-{name}", marks=pytest.mark.slow)
            for front, queue, name in (("core", 1024, "deep"), ("aio", 40, "full"), ("aio", 1024, "deep"))
        ),
    ],
)
def test_a_single_call_waits_for_few_of_a_flood(start_server, tmp_path: Path, front: str, queue: int) -> None:
    """In the order of arrival each would wait for a hundred; with a full queue, it would be refused."""
    (tmp_path / "models/endless/1").mkdir(parents=True)
    (tmp_path / "models/endless/1/model.onnx").write_bytes(bare_graphs.counting())
    config = tmp_path / "server.toml"
    config.write_text(f"[models.endless]\nmax_queue_size = {queue}\n")
    environment = {"RESONNX_GRPC_FRONT": front}
    with start_server(tmp_path / "models", "--config", str(config), environment=environment) as server:
        during = asyncio.run(_others_before_each(server.grpc, FLOOD))
    assert sorted(during)[GOOD // 2] <= 8, during


def test_a_single_request_over_http_waits_for_few_of_a_flood(start_server, tmp_path: Path) -> None:
    (tmp_path / "models/endless/1").mkdir(parents=True)
    (tmp_path / "models/endless/1/model.onnx").write_bytes(bare_graphs.counting())
    with start_server(tmp_path / "models") as server:
        during = asyncio.run(_others_before_each(server.http, FLOOD, _by_http))
    assert sorted(during)[GOOD // 2] <= 8, during
