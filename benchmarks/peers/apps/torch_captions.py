"""The usual captioner behind FastAPI: PyTorch, eager; one request at a time, or batches joined by hand."""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch
from batches import Batches
from caption_inputs import WORDS, transform
from captioner import load
from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool

# 0: PyTorch's default.
if threads := int(os.environ["PEER_THREADS"]):
    torch.set_num_threads(threads)

encoder, decoder = load(os.environ["PEER_MODEL"])
one_at_a_time = threading.Lock()


@torch.inference_mode()
def captions(asked: list[tuple[Any, int]]) -> list[list[str]]:
    """Caption a batch: as many steps as its longest caption has words."""
    features = encoder(torch.from_numpy(np.stack([image for image, _ in asked])))
    sampled = decoder.sample(features, max(words for _, words in asked)).tolist()
    return [[WORDS[number] for number in row[:words]] for row, (_, words) in zip(sampled, asked, strict=True)]


batches = Batches(captions)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start the queue with the event loop."""
    await batches.start()
    yield


app = FastAPI(lifespan=lifespan)

if os.environ["PEER_BATCH"] == "1":

    @app.post("/caption")
    def caption_alone(file: UploadFile, words: int) -> dict[str, Any]:
        """Answer an upload by itself."""
        image = transform(file.file.read())
        with one_at_a_time:
            return {"words": captions([(image, words)])[0]}

else:

    @app.post("/caption")
    async def caption(file: UploadFile, words: int) -> dict[str, Any]:
        """Answer an upload within a batch."""
        image = await run_in_threadpool(transform, await file.read())
        return {"words": await batches.result((image, words))}
