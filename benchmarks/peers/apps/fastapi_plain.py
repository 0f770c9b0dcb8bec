"""FastAPI and ONNX Runtime as tutorials write it: a picture is decoded and run within its own request."""

import os
from typing import Any

import numpy as np
from fastapi import FastAPI, UploadFile
from ort_session import open_session
from uploads import best, pixels

app = FastAPI()
session = open_session()


def predict(content: bytes) -> dict[str, Any]:
    """Answer one picture."""
    image = np.expand_dims(pixels(content), 0)
    return best(session.run(["probabilities"], {"image": image})[0][0])


# A coroutine holds up the event loop for as long as it runs; a function runs on one of the framework's 40 threads.
if os.environ["PEER_HANDLER"] == "async":

    @app.post("/classify")
    async def classify(file: UploadFile) -> dict[str, Any]:
        """Answer an upload on the event loop."""
        return predict(await file.read())

else:

    @app.post("/classify")
    def classify_on_thread(file: UploadFile) -> dict[str, Any]:
        """Answer an upload on a thread."""
        return predict(file.file.read())
