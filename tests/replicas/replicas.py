"""Servers on one port of three addresses, nginx before them, and clients that repeat nothing."""

import asyncio
import random
import re
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
from resonnx._transport.channel import options
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..conftest import RunningServer, StartServer
from ..server.waiting import until

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/nginx/nginx.conf"
# Debian has it in a folder that is not in every PATH.
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
# With metrics of so many more answers, a server is among those that calls go to.
_SERVES = 20


def free_port() -> int:
    """Return a port that is free on all addresses of this machine."""
    with socket.create_server(("0.0.0.0", 0)) as found:
        return int(found.getsockname()[1])


class Replicas:
    """Servers of one repository, each on an address of its own, all on one port.

    Args:
        start: Starts a server.
        repository: Holds the models.
        count: How many there are.
        flags: Of each.
        environment: Variables of each.
    """

    def __init__(self, start: StartServer, repository: Path, count: int, *flags: str, **environment: str) -> None:
        self.port = free_port()
        self.addresses = ADDRESSES[:count]
        self._start, self._repository, self._flags, self._environment = start, repository, flags, environment
        self._running: dict[str, tuple[ExitStack, RunningServer]] = {}

    async def start(self, *addresses: str) -> None:
        """Start servers and wait until they are ready; by default all."""
        await asyncio.gather(*(asyncio.to_thread(self._start_one, each) for each in addresses or self.addresses))

    def _start_one(self, address: str) -> None:
        stack = ExitStack()
        flags = ("--host", address, "--port", str(self.port), *self._flags)
        server = stack.enter_context(self._start(self._repository, *flags, environment=self._environment))
        self._running[address] = stack, server

    async def stop(self, address: str) -> int:
        """Stop a server by SIGTERM; returns its exit status."""
        stack, server = self._running.pop(address)
        try:
            return await asyncio.to_thread(server.stop)
        finally:
            stack.close()

    def kill(self, address: str) -> None:
        """End a server by SIGKILL."""
        stack, _ = self._running.pop(address)
        stack.close()

    async def answered(self, address: str) -> float:
        """Return how many calls a server has answered since its start."""
        server = self._running[address][1]
        return await asyncio.to_thread(server.metric, "nv_inference_request_success")

    async def serves(self, address: str) -> None:
        """Wait until calls go to a server."""
        goal = await self.answered(address) + _SERVES
        async with asyncio.timeout(30):
            while await self.answered(address) < goal:
                await asyncio.sleep(0.05)

    async def shows(self, address: str, state: str) -> None:
        """Wait until the page of a server's readiness has a line that begins with `state`."""
        async with asyncio.timeout(30):
            while f"\n{state}" not in (await asyncio.to_thread(self._running[address][1].get, "/readyz"))[1]:
                await asyncio.sleep(0.05)

    async def restart_all(self, **environment: str) -> None:
        """Stop one after the other, and start it again, with `environment` from now on."""
        self._environment |= environment
        for address in self.addresses:
            assert await self.stop(address) == 0
            await self.start(address)
            await self.serves(address)

    def end(self) -> None:
        """Kill all."""
        for address in [*self._running]:
            self.kill(address)


@asynccontextmanager
async def replicas(
    start: StartServer, repository: Path, count: int, *flags: str, **environment: str
) -> AsyncIterator[Replicas]:
    """Run servers, which are ready, until the block ends."""
    made = Replicas(start, repository, count, *flags, **environment)
    try:
        await made.start()
        yield made
    finally:
        made.end()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def nginx(replicas: Replicas, folder: Path) -> AsyncIterator[str]:
    """Run nginx with the example's settings before servers until the block ends; the value is its address."""
    assert NGINX is not None
    port = free_port()
    example = _EXAMPLE.read_text()
    servers = [f"server {address}:{replicas.port} max_fails" for address in replicas.addresses]
    given = re.sub(
        r"( *server 127\.0\.0\.1:\d+ max_fails[^\n]*\n)+", lambda found: _servers(found[0], servers), example
    )
    given = re.sub(r"listen \d+ http2", f"listen 127.0.0.1:{port} http2", given)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(given.replace("http {\n", f"http {{\n    access_log off;\n{paths}"))
    command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    command += ["-g", f"daemon off; pid {folder}/pid; error_log {folder}/error.log;"]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await until(lambda: _listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


def _servers(found: str, servers: list[str]) -> str:
    """Return the example's line of a server for each of `servers`."""
    line = found.splitlines(keepends=True)[0]
    return "".join(re.sub(r"server \S+ max_fails", server, line) for server in servers)


def request(number: int) -> pb.ModelInferRequest:
    """Return a request to double a number."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    content = np.full(3, number, np.float32).tobytes()
    return pb.ModelInferRequest(model_name="double", id=str(number), inputs=[tensor], raw_input_contents=[content])


def doubling(channel: grpc.aio.Channel) -> Callable[[], Awaitable[None]]:
    """Return a call that has a number doubled and looks at the answer."""
    infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

    async def ask() -> None:
        number = random.randrange(1 << 20)
        answer = await infer(request(number), timeout=30, wait_for_ready=False)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2 * number] * 3

    return ask


class Load:
    """Clients in closed loops, and what became of their calls.

    Args:
        channel: Of all of them.
        clients: How many there are.
        ask: Makes one call and looks at its answer.
    """

    def __init__(self, channel: grpc.aio.Channel, clients: int, ask: Callable[[], Awaitable[None]]) -> None:
        self.codes = Counter[str]()
        self.channel = channel
        self._ask = ask
        self._is_over = False
        self._clients = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while not self._is_over:
            try:
                await self._ask()
            except grpc.aio.AioRpcError as error:
                self.codes[f"{error.code().name}: {error.details()}"] += 1
            else:
                self.codes["OK"] += 1

    async def more(self, answers: int) -> None:
        """Wait for so many more answers."""
        goal = self.codes["OK"] + answers
        await until(lambda: self.codes["OK"] >= goal)

    async def end(self) -> None:
        """End after the present calls."""
        self._is_over = True
        await asyncio.gather(*self._clients)


@asynccontextmanager
async def load(
    channel: grpc.aio.Channel, asking: Callable[[grpc.aio.Channel], Callable[[], Awaitable[None]]] = doubling
) -> AsyncIterator[Load]:
    """Run 12 clients of a channel, which call what `asking` returns for it, until the block ends."""
    async with channel:
        made = Load(channel, 12, asking(channel))
        try:
            yield made
        finally:
            await made.end()


def once(target: str) -> grpc.aio.Channel:
    """Return a channel that repeats nothing."""
    given = [*options(target, alone=False, first=True), ("grpc.enable_retries", 0)]
    return grpc.aio.insecure_channel(target, options=given)
