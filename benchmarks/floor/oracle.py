"""The reference for overload: a server with the best fixed queue length, which refuses requests beyond it at once.

    python benchmarks/floor/oracle.py MODEL_FOLDER QUEUE_LENGTH

One model (float32, CPU provider), one queue, no deadlines, fairness or metrics. No real server has this: the queue
length is the best for exactly this load, found by trying.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from resonnx_proto.v1 import manifest_pb2, vision_pb2, vision_pb2_grpc
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import read_version
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import CPU, Candidate, Session

_BATCH = 8


class Oracle(vision_pb2_grpc.VisionServicer):
    """Answers Classify; refuses when `length` requests are under way."""

    def __init__(self, folder: Path, length: int) -> None:
        files = read_version(folder)
        self._pictures = PictureOptions(files.manifest.input)
        self._info = vision_pb2.GetModelResponse(manifest=files.manifest)
        self._info.summary.task = files.manifest.task
        candidate = Candidate(CPU, manifest_pb2.PRECISION_FP32)
        self._session = Session(files.files["model.onnx"], candidate, usable_cores())
        self._decoders, self._lane = ThreadPoolExecutor(usable_cores()), ThreadPoolExecutor(1)
        self._length, self._under_way = length, 0
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    async def GetModel(self, request: Any, context: Any) -> vision_pb2.GetModelResponse:  # noqa: N802
        """Describe the model's inputs to the load generator."""
        return self._info

    async def Classify(self, request: Any, context: Any) -> vision_pb2.ClassifyResponse:  # noqa: N802
        """Refuse, or decode, wait for a batch, and answer."""
        if self._under_way >= self._length:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        self._under_way += 1
        try:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self._decoders, images.load, request.image.encoded, self._pictures)
            done = loop.create_future()
            self._queue.put_nowait((pixels, done))
            scores = await done
            best = np.argsort(-scores)[:5]
            return vision_pb2.ClassifyResponse(predictions=[{"index": int(i), "score": scores[i]} for i in best])
        finally:
            self._under_way -= 1

    async def work(self) -> None:
        """Run queued requests in batches, for ever."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            feeds = {"image": np.stack([pixels for pixels, _ in batch])}
            run = asyncio.get_running_loop().run_in_executor(self._lane, self._session.run, feeds, ["probabilities"])
            for (_, done), scores in zip(batch, (await run)["probabilities"], strict=True):
                if not done.done():
                    done.set_result(scores)


async def _serve(folder: Path, length: int) -> None:
    server = grpc.aio.server()
    oracle = Oracle(folder, length)
    vision_pb2_grpc.add_VisionServicer_to_server(oracle, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"oracle ready grpc=127.0.0.1:{port} http=-", flush=True)
    await oracle.work()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
