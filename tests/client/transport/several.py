"""Small servers in processes of their own: several behind one client, which may be killed."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from resonnx import AsyncClient, Client

CALLERS = 12

# A server whose models have its number for a version; it needs no second to start. A stream for a model that has its
# number for a name kills it before an answer.
_PROGRAM = """
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

address, number = sys.argv[1:]


class Vision(vision_pb2_grpc.VisionServicer):
    def GetModel(self, request, context):
        return vision_pb2.GetModelResponse(summary={"name": request.model, "version": int(number)})

    def ClassifyStream(self, requests, context):
        for request in requests:
            if request.model == number:
                os.kill(os.getpid(), signal.SIGKILL)
            response = {"model": request.model, "predictions": [{"label": request.image.encoded.decode()}]}
            yield vision_pb2.ClassifyStreamResponse(id=request.id, response=response)


server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
vision_pb2_grpc.add_VisionServicer_to_server(Vision(), server)
port = server.add_insecure_port(address)
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


class Small:
    """A server that was started.

    Attributes:
        number: Its models' version.
        port: Its port.
    """

    def __init__(self, process: "subprocess.Popen[str]", number: int) -> None:
        self._process = process
        self.number = number
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    @property
    def lives(self) -> bool:
        """Whether it was not killed."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def small_servers(addresses: Sequence[str], first: int = 1) -> Iterator[list[Small]]:
    """Start a server at each HOST:PORT, where 0 is any port; their numbers begin with `first`."""
    with ExitStack() as stack:
        started = []
        for number, address in enumerate(addresses, first):
            command = [sys.executable, "-c", _PROGRAM, address, str(number)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            started.append(process)
        yield [Small(process, number) for number, process in enumerate(started, first)]


def ask_by_threads(address: str, ask: Callable[[int], bool]) -> None:
    """Have callers of a Client ask until `ask`, which gets the version of each answer, returns False."""
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


def ask_by_tasks(address: str, ask: Callable[[int], bool]) -> None:
    """Have callers of an AsyncClient do the same."""

    async def call(client: AsyncClient) -> None:
        while ask((await client.model("digits")).summary.version):
            pass

    async def run() -> None:
        async with AsyncClient(address, timeout_s=30) as client:
            await asyncio.gather(*(call(client) for _ in range(CALLERS)))

    asyncio.run(run())
