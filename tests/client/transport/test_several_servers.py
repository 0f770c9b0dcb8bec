"""Several servers behind one client: calls are distributed, and a server that dies fails no call."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from resonnx import AsyncClient, Client, Unavailable

from ...server.bare_graphs import doubling

# A server whose models have its port for a version; it needs no second to start.
_SMALL = """
from concurrent.futures import ThreadPoolExecutor

import grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc


class Vision(vision_pb2_grpc.VisionServicer):
    def GetModel(self, request, context):
        return vision_pb2.GetModelResponse(summary={"name": request.model, "version": port})


server = grpc.server(ThreadPoolExecutor(16))
vision_pb2_grpc.add_VisionServicer_to_server(Vision(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""
CALLERS = 12


class Servers:
    """Processes by their ports."""

    def __init__(self, pids: dict[int, int]) -> None:
        self.pids = pids

    def address(self, form: str) -> str:
        """Return a client's address of all: a list of servers, or what gRPC takes for a name with several addresses."""
        return form + ",".join(f"127.0.0.1:{port}" for port in self.pids)

    def kill_one(self) -> int:
        """Kill a server at once, and return its port."""
        port = min(self.pids)
        os.kill(self.pids[port], signal.SIGKILL)
        return port


@pytest.fixture
def small() -> Iterator[Servers]:
    with ExitStack() as stack:
        command = [sys.executable, "-c", _SMALL]
        started = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(3)]
        for process in started:
            stack.callback(process.kill)
        yield Servers({int(process.stdout.readline()): process.pid for process in started if process.stdout})


@pytest.fixture
def real(start_server, tmp_path: Path) -> Iterator[Servers]:
    (tmp_path / "digits/1").mkdir(parents=True)
    (tmp_path / "digits/1/model.onnx").write_bytes(doubling())
    with ExitStack() as stack:
        started = [stack.enter_context(start_server(tmp_path)) for _ in range(3)]
        yield Servers({int(server.grpc.rpartition(":")[2]): server.process.pid for server in started})


def _threads(address: str, ask: Callable[[int], bool]) -> None:
    """Have callers ask until `ask`, which gets the version of each answer, returns False."""
    errors: list[Exception] = []

    def call() -> None:
        try:
            while ask(client.model("digits").summary.version):
                pass
        except Exception as error:
            errors.append(error)

    with Client(address, timeout_s=30) as client:
        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert errors == []


def _tasks(address: str, ask: Callable[[int], bool]) -> None:
    async def call(client: AsyncClient) -> None:
        while ask((await client.model("digits")).summary.version):
            pass

    async def run() -> None:
        async with AsyncClient(address, timeout_s=30) as client:
            await asyncio.gather(*(call(client) for _ in range(CALLERS)))

    asyncio.run(run())


@pytest.mark.parametrize("run", [_threads, _tasks])
@pytest.mark.parametrize("form", ["", "ipv4:"])
@pytest.mark.parametrize("servers", ["small", pytest.param("real", marks=pytest.mark.slow)])
def test_no_call_fails_when_a_server_is_killed(
    servers: str, form: str, run: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    all_of_them: Servers = request.getfixturevalue(servers)
    lock = threading.Lock()
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    killed: list[int] = []

    def ask(version: int) -> bool:
        with lock:
            (after if killed else before)[version] += 1
            if not killed and before.total() >= 300:
                killed.append(all_of_them.kill_one())
            return after.total() < 600

    run(all_of_them.address(form), ask)
    if servers == "small":
        assert before.keys() == all_of_them.pids.keys()
        assert min(before.values()) >= 50, "calls are distributed"
        # Answers that were on their way.
        assert after[killed[0]] <= 2 * CALLERS
        assert min(after[port] for port in all_of_them.pids if port != killed[0]) >= 150


def test_a_call_fails_when_no_server_is_left(small: Servers) -> None:
    for pid in small.pids.values():
        os.kill(pid, signal.SIGKILL)
    with Client(small.address("")) as client, pytest.raises(Unavailable):
        client.model("digits")

    async def ask() -> None:
        async with AsyncClient(small.address("")) as client:
            with pytest.raises(Unavailable):
                await client.model("digits")

    asyncio.run(ask())
