"""64 clients on 64 connections: every answer belongs to its own picture, and they share batches."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as oip_pb
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

CLIENTS, REQUESTS = 64, 4
SIDE = 32
# Each channel of one process its own connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module")
def repository(demo_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's classifier alone."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits").symlink_to(demo_repository / "digits")
    return folder


@pytest.fixture(scope="module")
def server(start_server, repository: Path) -> Iterator:
    with start_server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def pictures(server) -> tuple[list[np.ndarray], np.ndarray]:
    """Random pictures, and the server's features of each when asked alone: unlike for every two pictures."""
    with grpc.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        rng = np.random.default_rng(11)
        pixels = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(CLIENTS)]
        features = [list(vision.Classify(_request(p), timeout=20).features) for p in pixels]
    return pixels, np.array(features)


def _request(pixels: np.ndarray) -> vision_pb2.ClassifyRequest:
    height, width, _ = pixels.shape
    raw = {"rgb": pixels.tobytes(), "width": width, "height": height}
    return vision_pb2.ClassifyRequest(model="digits", image={"raw": raw}, return_features=True)


async def test_a_connection_takes_thousands_of_calls_at_once(server) -> None:
    """As a client sends them that was held up: gRPC's own in C and Python give up calls that gRPC refuses."""
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        is_live = oip_grpc.GRPCInferenceServiceStub(channel).ServerLive
        answers = await asyncio.gather(
            *(is_live(oip_pb.ServerLiveRequest(), timeout=20) for _ in range(3000)), return_exceptions=True
        )
    assert [answer for answer in answers if isinstance(answer, Exception)] == []


async def test_answers_belong_to_their_pictures(server, pictures) -> None:
    await _executions(server, pictures)


async def test_batches_are_shared(start_server, repository: Path, pictures, tmp_path: Path) -> None:
    """On one core, told that large batches pay and to wait for company: 64 clients fill them, whatever their pace."""
    config, tables = tmp_path / "server.toml", tmp_path / "tables"
    config.write_text("[models.digits]\nmax_batch_size = 16\nmax_queue_delay_us = 1000000\n")

    def start() -> AbstractContextManager:
        environment = {"RESONNX_CACHE_DIR": str(tables)}
        return start_server(repository, "--provider", "cpu", "--config", str(config), environment=environment)

    with _one_core(), start():
        pass
    for file in tables.glob("latency-*.json"):
        costs = {size: (2e7 + 5e5 * int(size), 0.0) for size in json.loads(file.read_text())["costs"]}
        file.write_text(json.dumps({"costs": costs, "doubts": 0}))
    with ExitStack() as stack:
        with _one_core():
            server = stack.enter_context(start())
        executions = await _executions(server, pictures)
    assert CLIENTS * REQUESTS / executions >= 8, f"{executions:.0f} batches"


@contextmanager
def _one_core() -> Iterator[None]:
    """What is started meanwhile runs on one."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


async def _executions(server, pictures) -> float:
    """Let all clients ask, hold their answers against `pictures`, and return how many batches there were."""
    pixels, expected = pictures
    nearest_other = min(np.abs(expected[i] - expected[j]).max() for i in range(CLIENTS) for j in range(i))
    before = [server.metric(f"nv_inference_{name}", model="digits") for name in ("count", "exec_count")]
    channels = [grpc.aio.insecure_channel(server.grpc, options=OPTIONS) for _ in range(CLIENTS)]
    # Serialized before and parsed after: 64 clients in one process must not be slower than the server.
    requests = [_request(p).SerializeToString() for p in pixels]
    answers: dict[tuple[int, int], bytes] = {}

    async def client(number: int) -> None:
        classify = channels[number].unary_unary("/resonnx.v1.Vision/Classify")
        for turn in range(REQUESTS):
            answers[number, turn] = await classify(requests[_which(number, turn)], timeout=60)

    try:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    for (number, turn), answer in answers.items():
        features = np.array(vision_pb2.ClassifyResponse.FromString(answer).features)
        assert np.abs(features - expected[_which(number, turn)]).max() < nearest_other / 4
    after = [server.metric(f"nv_inference_{name}", model="digits") for name in ("count", "exec_count")]
    assert after[0] - before[0] == CLIENTS * REQUESTS
    return after[1] - before[1]


def _which(number: int, turn: int) -> int:
    return (number + 7 * turn) % CLIENTS
