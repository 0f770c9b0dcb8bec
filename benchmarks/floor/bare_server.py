"""The smallest server that answers the same calls: a reference for the server's processor time.

    python benchmarks/floor/bare_server.py MODEL_FILE [--provider CPUExecutionProvider] [--precision fp32]
    python benchmarks/floor/bare_server.py MODEL_FILE --echo [--front core]

An asyncio server with one queue and a session of one thread for each core; a free session takes up to 16 waiting rows.
Nothing is checked, timed, refused or scheduled. With `--echo` there is no model: every request gets the same response,
so that only gRPC's work is left, of grpc.aio's server or of one of resonnx's fronts. The calls around inference are
those that perf_analyzer makes first.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc, model_config_pb2
from resonnx_proto.v1 import manifest_pb2
from resonnx_server.rpc.fronts.aio.server import AioFront
from resonnx_server.rpc.fronts.core.server import CoreFront
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.session import CPU, Array, Candidate, Session, TensorSpec

_BATCH = 16
_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}

_FRONTS: dict[str, Callable[[], Any]] = {
    "plain": grpc.aio.server,
    "aio": lambda: AioFront([]),
    "core": lambda: CoreFront([]),
}

Deliver = Callable[[pb.ModelInferResponse], None]


class Front(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Describes the model's inputs and outputs, and counts requests and batches."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self.requests = self.batches = 0

    async def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:  # noqa: N802
        """Name the server."""
        return pb.ServerMetadataResponse(name="bare", version="1")

    async def ModelReady(self, request: Any, context: Any) -> pb.ModelReadyResponse:  # noqa: N802
        """Return that the model is ready."""
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any, context: Any) -> pb.ModelMetadataResponse:  # noqa: N802
        """Describe inputs and outputs."""
        answer = pb.ModelMetadataResponse(name=request.name, versions=["1"])
        for described, specs in ((answer.inputs, self._inputs), (answer.outputs, self._outputs)):
            for spec in specs:
                described.add(name=spec.name, datatype=_DATATYPES[spec.dtype.name], shape=[-1, *_row(spec)])
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> pb.ModelConfigResponse:  # noqa: N802
        """Describe inputs and outputs, as Triton does."""
        answer = pb.ModelConfigResponse()
        answer.config.name, answer.config.max_batch_size = request.name, _BATCH
        for described, specs in ((answer.config.input, self._inputs), (answer.config.output, self._outputs)):
            for spec in specs:
                kind = model_config_pb2.DataType.Value(f"TYPE_{_DATATYPES[spec.dtype.name]}")
                described.add(name=spec.name, data_type=kind, dims=_row(spec))
        return answer

    async def ModelStatistics(self, request: Any, context: Any) -> pb.ModelStatisticsResponse:  # noqa: N802
        """Return the counts."""
        answer = pb.ModelStatisticsResponse()
        counts = answer.model_stats.add(name=request.name, version="1", inference_count=self.requests)
        counts.execution_count = self.batches
        counts.inference_stats.success.count = self.requests
        return answer

    def answer(self, request: pb.ModelInferRequest, rows: list[Array]) -> pb.ModelInferResponse:
        """Make the message of one request's outputs."""
        self.requests += 1
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for spec, row in zip(self._outputs, rows, strict=True):
            answer.outputs.add(name=spec.name, datatype=_DATATYPES[spec.dtype.name], shape=row.shape)
            answer.raw_output_contents.append(row.tobytes())
        return answer


class Echo(Front):
    """Returns the same response to every request."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.inputs, session.outputs)
        feeds = {spec.name: np.zeros((1, *_row(spec)), spec.dtype) for spec in session.inputs}
        self._rows = list(session.run(feeds).values())

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """Answer at once."""
        return self.answer(request, self._rows)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[pb.ModelStreamInferResponse]:  # noqa: N802
        """Answer one after the other."""
        async for request in requests:
            yield pb.ModelStreamInferResponse(infer_response=self.answer(request, self._rows))


class Bare(Front):
    """Puts requests into one queue; `work` answers them."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.inputs, session.outputs)
        self._queue: asyncio.Queue[tuple[pb.ModelInferRequest, Deliver]] = asyncio.Queue()

    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """Queue the request and wait for its response."""
        answer: asyncio.Future[pb.ModelInferResponse] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, lambda response: None if answer.done() else answer.set_result(response)))
        return await answer

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[pb.ModelStreamInferResponse]:  # noqa: N802
        """Queue all requests and yield responses as batches end, until the caller stops sending."""
        answers: asyncio.Queue[pb.ModelInferResponse | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                self._queue.put_nowait((request, answers.put_nowait))

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: answers.put_nowait(None))
        while (answer := await answers.get()) is not None:
            yield pb.ModelStreamInferResponse(infer_response=answer)

    async def work(self, session: Session, pool: ThreadPoolExecutor) -> None:
        """Run queued requests in batches, for ever."""
        spec, loop = session.inputs[0], asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            pixels = b"".join(request.raw_input_contents[0] for request, _ in batch)
            feeds = {spec.name: np.frombuffer(pixels, spec.dtype).reshape(-1, *_row(spec))}
            outputs = (await loop.run_in_executor(pool, session.run, feeds)).values()
            self.batches += 1
            for i, (request, deliver) in enumerate(batch):
                deliver(self.answer(request, [output[i : i + 1] for output in outputs]))


def _row(spec: TensorSpec) -> list[int]:
    """Return the shape of one row."""
    return [int(size) for size in spec.shape[1:] if size is not None]


async def _serve(model: bytes, candidate: Candidate, *, echo: bool, front: str) -> None:
    cores = usable_cores()
    sessions = [Session(model, candidate, 1) for _ in range(1 if echo else cores)]
    servicer = Echo(sessions[0]) if echo else Bare(sessions[0])
    server = _FRONTS[front]()
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"bare ready grpc=127.0.0.1:{port} http=-", flush=True)
    if isinstance(servicer, Bare):
        pool = ThreadPoolExecutor(cores)
        await asyncio.gather(*(servicer.work(session, pool) for session in sessions))
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--provider", default=CPU)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--front", choices=tuple(_FRONTS), default="plain", help="plain is grpc.aio's server as it is")
    given = parser.parse_args()
    precision: manifest_pb2.Precision = getattr(manifest_pb2, f"PRECISION_{given.precision.upper()}")
    candidate = Candidate(given.provider, precision)
    asyncio.run(_serve(given.file.read_bytes(), candidate, echo=given.echo, front=given.front))
