"""FastAPI and ONNX Runtime with a queue: pictures are decoded on threads, joined, and run as batches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from batches import Batches
from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool
from ort_session import open_session
from uploads import best, pixels

session = open_session()


def predict(images: list[Any]) -> list[Any]:
    """Run one batch."""
    return list(session.run(["probabilities"], {"image": np.stack(images)})[0])


batches = Batches(predict)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start the queue with the event loop."""
    await batches.start()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(file: UploadFile) -> dict[str, Any]:
    """Answer an upload."""
    image = await run_in_threadpool(pixels, await file.read())
    return best(await batches.result(image))
