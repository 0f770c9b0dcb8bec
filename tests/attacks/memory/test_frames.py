"""Calls that are reset at once, over thousands of streams (SECURITY.md)."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ...conftest import StartServer
from ...server import bare_graphs
from ..http2 import Connection
from .held import BUDGET, Attacked, held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

ATTACKED_S = 4.0


@pytest.fixture
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    model = tmp_path_factory.mktemp("frames") / "doubling/1/model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bare_graphs.doubling())
    environment = {"RESONNX_GRPC_FRONT": "core", "RESONNX_MEMORY_BUDGET_BYTES": str(BUDGET)}
    with start_server(model.parents[2], environment=environment) as running:

        def serves() -> bool:
            with grpc.insecure_channel(running.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
                return stub.ModelReady(pb.ModelReadyRequest(name="doubling"), timeout=20, wait_for_ready=True).ready

        yield Attacked.idle_now(running, "core", serves)


def _flood(server: Attacked, connections: int, send: Callable[[Connection], bool]) -> int:
    """Send over so many connections, each in place of one that is ended; returns how many were opened."""
    end, opened = time.monotonic() + ATTACKED_S, [0] * connections

    def run(place: int) -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                connection = Connection(server.grpc, f"127.0.0.{2 + place}")
                opened[place] += 1
                while time.monotonic() < end and send(connection):
                    pass
                connection.close()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(opened)


@pytest.mark.slow
def test_calls_that_are_reset_at_once(server: Attacked) -> None:
    with held(server):
        opened = _flood(server, 8, lambda connection: connection.reset(200))
    print(f"{opened} connections")
