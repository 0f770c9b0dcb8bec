"""The usual captioner behind FastAPI: ONNX Runtime, an encoder and a step of the decoder, one request at a time."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from caption_inputs import WORDS, transform
from fastapi import FastAPI, UploadFile


def _open(file: Path) -> Any:
    """Open a graph; with 0 threads with every default of ONNX Runtime."""
    options = ort.SessionOptions()
    if threads := int(os.environ["PEER_THREADS"]):
        options.intra_op_num_threads = threads
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


folder = Path(os.environ["PEER_GRAPHS"])
encoder, step = _open(folder / "encoder.onnx"), _open(folder / "step.onnx")
embedding = np.load(folder / "embedding.npy")
units = embedding.shape[1]
one_at_a_time = threading.Lock()
app = FastAPI()


@app.post("/caption")
def caption_alone(file: UploadFile, words: int) -> dict[str, Any]:
    """Answer an upload."""
    image = transform(file.file.read())
    with one_at_a_time:
        (inputs,) = encoder.run(None, {"image": image[None]})
        hidden = cell = np.zeros((1, 1, units), np.float32)
        found = []
        for _ in range(words):
            logits, hidden, cell = step.run(None, {"input": inputs[:, None], "hidden": hidden, "cell": cell})
            number = int(logits[0].argmax())
            found.append(WORDS[number])
            inputs = embedding[number][None]
    return {"words": found}
