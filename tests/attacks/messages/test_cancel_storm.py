"""Calls of which half are cancelled at any moment: the others get their own answers, and nothing of any call is left.

SECURITY.md: "calls that are begun and cancelled without end".
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ...conftest import RunningServer
from ...server import bare_graphs
from ...server.waiting import until

# Whose rows the queue of 1,024 holds.
_AT_ONCE = 64
_TIMEOUT_S = 30
_MORE = 4


def _request(number: int, rows: int) -> pb.ModelInferRequest:
    values = (number + np.arange(rows * 3) / 1024).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3]}
    return pb.ModelInferRequest(
        model_name="good", id=str(number), inputs=[tensor], raw_input_contents=[values.tobytes()]
    )


def _is_right(request: pb.ModelInferRequest, answer: pb.ModelInferResponse) -> bool:
    asked, told = (np.frombuffer(m, np.float32) for m in (request.raw_input_contents[0], answer.raw_output_contents[0]))
    return answer.id == request.id and np.array_equal(told, asked * 2)


async def _storm(address: str, count: int) -> Counter[str]:
    """Make so many calls over four connections, a third of them on streams; return their outcomes."""
    outcomes = Counter[str]()
    rng = random.Random(count)
    room = asyncio.Semaphore(_AT_ONCE)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(4)]
    stubs = [grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]

    async def unary(number: int, leaves_s: float | None) -> None:
        request = _request(number, rng.randrange(1, 16))
        call = rng.choice(stubs).ModelInfer(request, timeout=_TIMEOUT_S)
        if leaves_s is not None:
            asyncio.get_running_loop().call_later(leaves_s, call.cancel)
        assert _is_right(request, await call)

    async def stream(number: int, leaves_s: float | None) -> None:
        requests = [_request(number * 10 + part, rng.randrange(1, 4)) for part in range(5)]
        call = rng.choice(stubs).ModelStreamInfer(iter(requests), timeout=_TIMEOUT_S)
        if leaves_s is not None:
            asyncio.get_running_loop().call_later(leaves_s, call.cancel)
        by_id = {request.id: request for request in requests}
        async for answer in call:
            assert not answer.error_message
            assert _is_right(by_id.pop(answer.infer_response.id), answer.infer_response)
        assert leaves_s is not None or not by_id

    async def one(number: int) -> None:
        leaves_s = rng.choice([0.0, 0.0005, 0.003, 0.02]) * rng.random() if number % 2 else None
        async with room:
            try:
                await (stream if number % 3 == 0 else unary)(number, leaves_s)
                outcomes["ok"] += 1
            except asyncio.CancelledError:
                assert leaves_s is not None
                outcomes["cancelled"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[f"{error.code().name} {error.details()}"] += 1

    await asyncio.gather(*(one(number) for number in range(count)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcomes


def _held(server: RunningServer) -> tuple[int, int]:
    return len(server.descriptors()), server.threads()


@pytest.fixture(params=["core", "aio"])
def server(request: pytest.FixtureRequest, start_server, tmp_path: Path) -> Iterator[RunningServer]:
    (tmp_path / "good/1").mkdir(parents=True)
    (tmp_path / "good/1/model.onnx").write_bytes(bare_graphs.doubling())
    with start_server(tmp_path, environment={"RESONNX_GRPC_FRONT": request.param}) as running:
        yield running


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
async def test_nothing_hangs_and_nothing_is_left(server: RunningServer, count: int) -> None:
    # Threads and connections that a server opens once.
    assert not {outcome for outcome in await _storm(server.grpc, 100) if outcome not in ("ok", "cancelled")}
    await until(lambda: server.metric("resonnx_requests_in_progress") == 0)
    # gRPC starts a few more threads when it is busy, each of which may hold a descriptor.
    before = tuple(held + _MORE for held in _held(server))
    outcomes = await _storm(server.grpc, count)
    print(dict(outcomes), before)
    assert set(outcomes) == {"ok", "cancelled"}, "none hangs, and none fails because another left"
    assert outcomes["ok"] >= count // 2
    await until(lambda: all(now <= most for now, most in zip(_held(server), before, strict=True)))
    server.ends_well()
