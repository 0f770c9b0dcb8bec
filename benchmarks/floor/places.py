"""A server without checks that runs each request where it is told: what the hand-overs between threads cost.

    python benchmarks/floor/places.py MODEL_FILE [--precision fp32] [--place lane]

    lane    on a thread of its own, to which the event loop passes requests, as resonnx does
    loop    on the event loop, which meanwhile answers nothing else
    queue   on the thread of gRPC's completion queue, which reads, runs and answers

It stands on the front `core`, and answers ModelInfer only beside what perf_analyzer asks first. Nothing is batched; a
run uses all cores.
"""

import argparse
import asyncio
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from floor.bare_server import Front
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import manifest_pb2
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.call import CoreCall
from resonnx_server.rpc.fronts.core.server import CoreFront
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU, Array, Candidate, Session

_METHOD = "/ModelInfer"


class Loop(Front):
    """Runs on the event loop."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.inputs, session.outputs)
        self._session, self._spec = session, session.inputs[0]
        self._row = [int(size) for size in self._spec.shape[1:] if size is not None]

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """Run and answer."""
        return self.answer(request, self.run(request))

    def run(self, request: pb.ModelInferRequest) -> list[Array]:
        """Return the outputs of a request."""
        pixels = np.frombuffer(request.raw_input_contents[0], self._spec.dtype).reshape(-1, *self._row)
        return [*self._session.run({self._spec.name: pixels}).values()]


class Lane(Loop):
    """Runs on a thread of its own."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._asked: SimpleQueue[tuple[pb.ModelInferRequest, asyncio.Future[list[Array]]]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """Pass the request on, and answer."""
        outputs: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()
        self._asked.put((request, outputs))
        return self.answer(request, await outputs)

    def _work(self) -> None:
        while True:
            request, outputs = self._asked.get()
            outputs.get_loop().call_soon_threadsafe(outputs.set_result, self.run(request))


def _answer_on_the_queue(servicer: Loop) -> None:
    """Let the queue's thread answer, in place of all that calls do else."""
    received = CoreCall._received

    def run(call: CoreCall, event: ops.Event) -> None:
        message = ops.received(event)
        if message is None or not call.path.endswith(_METHOD):
            received(call, event)
            return
        call._intake.forget(call)
        request = pb.ModelInferRequest.FromString(message)
        call._finish(servicer.answer(request, servicer.run(request)).SerializeToString())

    CoreCall._received = run  # type: ignore[assignment, method-assign]


async def _serve(session: Session, place: str) -> None:
    servicer = Lane(session) if place == "lane" else Loop(session)
    if place == "queue":
        _answer_on_the_queue(servicer)
    server = CoreFront([])
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"places ready grpc=127.0.0.1:{port} http=-", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--place", choices=("lane", "loop", "queue"), default="lane")
    given = parser.parse_args()
    precision: manifest_pb2.Precision = getattr(manifest_pb2, f"PRECISION_{given.precision.upper()}")
    asyncio.run(_serve(Session(given.file.read_bytes(), Candidate(CPU, precision), usable_cores()), given.place))
