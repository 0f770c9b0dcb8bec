"""gzip: requests that unpack to a thousand times their size, to hold up everybody else (SECURITY.md: gzip)."""

import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer, StartServer
from .test_memory import SMALL

CLASSIFY = "/resonnx.v1.Vision/Classify"


@pytest.fixture(scope="module", params=["core", pytest.param("aio", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, start_server: StartServer, demo_repository: Path) -> Iterator[RunningServer]:
    with start_server(demo_repository, environment={"RESONNX_GRPC_FRONT": request.param}) as server:
        yield server


def _p99_s(vision: vision_pb2_grpc.VisionStub, seconds: float) -> float:
    """The 99th percentile of the latency of calls, one after the other."""
    request = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=SMALL))
    ends, took = time.monotonic() + seconds, []
    while (begun := time.monotonic()) < ends:
        vision.Classify(request, timeout=30)
        took.append(time.monotonic() - begun)
    return sorted(took)[int(len(took) * 0.99)]


def test_bombs_are_unpacked_between_others_calls(server: RunningServer) -> None:
    """Unpacked in one go, each would hold up everybody for a quarter of a second: few calls got through."""
    message = vision_pb2.ClassifyRequest(model="digits", id="x" * (60 << 20)).SerializeToString()
    packed = gzip.compress(message, 1)
    request = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=SMALL))
    with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as theirs:
        with grpc.insecure_channel(server.grpc) as ours:
            vision = vision_pb2_grpc.VisionStub(ours)
            vision.Classify(request, timeout=30)
            bombs = [theirs.unary_unary(CLASSIFY).future(packed, timeout=30) for _ in range(4)]
            answered = 0
            while not all(bomb.done() for bomb in bombs):
                vision.Classify(request, timeout=30)
                answered += 1
        assert {bomb.code() for bomb in bombs} <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    print(f"{answered} calls were answered while four bombs were unpacked")
    assert answered >= 12


@pytest.mark.slow
def test_a_stream_of_bombs_holds_nobody_up(server: RunningServer) -> None:
    """64 kB of gzip, five times a second on one connection, each 60 MB unpacked: others' p99 at most doubles."""
    message = vision_pb2.ClassifyRequest(model="digits", id="x" * (60 << 20)).SerializeToString()
    packed = gzip.compress(message, 6)
    assert len(packed) < 80_000
    stop = threading.Event()

    def attack() -> None:
        with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(CLASSIFY)
            while not stop.wait(0.2):
                call.future(packed, timeout=30)

    with grpc.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        _p99_s(vision, 1)
        before = min(_p99_s(vision, 3) for _ in range(2))
        attacker = threading.Thread(target=attack)
        attacker.start()
        try:
            attacked = min(_p99_s(vision, 3) for _ in range(2))
        finally:
            stop.set()
            attacker.join()
    assert attacked <= 2 * before, f"{before * 1e3:.1f} ms became {attacked * 1e3:.1f} ms"
