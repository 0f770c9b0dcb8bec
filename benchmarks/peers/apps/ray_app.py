"""The ONNX model behind Ray Serve, with @serve.batch."""

import os
import signal
from typing import Any

import numpy as np
from ort_session import open_session
from ray import serve
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from uploads import best, pixels

_ANY = 2000


@serve.deployment(
    num_replicas=int(os.environ["PEER_WORKERS"]), ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=_ANY
)
class Classifier:
    """What Ray Serve runs, in each replica."""

    def __init__(self) -> None:
        self._session = open_session()

    @serve.batch(
        max_batch_size=int(os.environ["PEER_BATCH"]), batch_wait_timeout_s=float(os.environ["PEER_DELAY_MS"]) / 1e3
    )
    async def run(self, images: list[Any]) -> list[Any]:
        """Run one batch."""
        batch = np.stack(images)
        outputs = await run_in_threadpool(self._session.run, ["probabilities"], {"image": batch})
        return list(outputs[0])

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer an upload."""
        async with request.form() as form:
            upload: Any = form["file"]
            content = await upload.read()
        return best(await self.run(await run_in_threadpool(pixels, content)))


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    classifier: Any = Classifier
    serve.run(classifier.bind(), route_prefix="/classify")
    signal.pause()
