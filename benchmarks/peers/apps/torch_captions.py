"""The usual captioner behind FastAPI: PyTorch, eager; one request at a time, or batches joined by hand.

The network is that of yunjey's tutorial: a ResNet-50 whose projected features are the LSTM's first input.
"""

import io
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch
from batches import Batches
from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from resnet50 import trunk
from torch import nn

_WORDS, _UNITS, _FEATURES = 10_000, 512, 2048
_SIDE = 224
_MEAN, _STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
_WORD_LIST = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(4, _WORDS))]

# 0: PyTorch's default.
if threads := int(os.environ["PEER_THREADS"]):
    torch.set_num_threads(threads)


class Encoder(nn.Module):
    """A picture to the LSTM's first input."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = trunk()
        self.linear = nn.Linear(_FEATURES, _UNITS)
        self.bn = nn.BatchNorm1d(_UNITS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [N, units]."""
        features: torch.Tensor = self.bn(self.linear(self.resnet(images).flatten(1)))
        return features


class Decoder(nn.Module):
    """Words, one after the other, each the likeliest."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_WORDS, _UNITS)
        self.lstm = nn.LSTM(_UNITS, _UNITS, batch_first=True)
        self.linear = nn.Linear(_UNITS, _WORDS)

    def sample(self, features: torch.Tensor, words: int) -> torch.Tensor:
        """Return the numbers of so many words for each picture, [N, words]."""
        inputs, states, sampled = features.unsqueeze(1), None, []
        for _ in range(words):
            hidden, states = self.lstm(inputs, states)
            predicted = self.linear(hidden.squeeze(1)).argmax(1)
            sampled.append(predicted)
            inputs = self.embed(predicted).unsqueeze(1)
        return torch.stack(sampled, 1)


encoder, decoder = Encoder(), Decoder()
nn.ModuleDict({"encoder": encoder, "decoder": decoder}).eval().load_state_dict(torch.load(os.environ["PEER_MODEL"]))
one_at_a_time = threading.Lock()


def transform(content: bytes) -> torch.Tensor:
    """Decode, stretch and normalise a picture as the tutorial does."""
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32) / 255
    return torch.from_numpy(((pixels - _MEAN) / _STD).transpose(2, 0, 1))


@torch.inference_mode()
def captions(asked: list[tuple[torch.Tensor, int]]) -> list[list[str]]:
    """Caption a batch: as many steps as its longest caption has words."""
    features = encoder(torch.stack([image for image, _ in asked]))
    sampled = decoder.sample(features, max(words for _, words in asked)).tolist()
    return [[_WORD_LIST[number] for number in row[:words]] for row, (_, words) in zip(sampled, asked, strict=True)]


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
