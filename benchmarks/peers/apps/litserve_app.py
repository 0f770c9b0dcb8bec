"""The ONNX model behind LitServe, with its own batching."""

import os
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from ort_session import open_session
from uploads import best, pixels


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe calls, in each of its workers."""

    def setup(self, device: str) -> None:
        """Open the session."""
        self._session = open_session()

    def decode_request(self, request: Request) -> Any:
        """Return the pixels of the uploaded picture: for this annotation LitServe passes the form."""
        form: Any = request
        return pixels(form["file"].file.read())

    def batch(self, inputs: list[Any]) -> Any:
        """Join pictures."""
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        """Run one batch, or a picture by itself where nothing is joined."""
        if images.ndim == 3:
            return self._session.run(["probabilities"], {"image": images[None]})[0][0]
        return self._session.run(["probabilities"], {"image": images})[0]

    def unbatch(self, output: Any) -> list[Any]:
        """Part the results."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the answer."""
        return best(output)


if __name__ == "__main__":
    largest, delay_ms = int(os.environ["PEER_BATCH"]), float(os.environ["PEER_DELAY_MS"])
    api = Classifier(max_batch_size=largest, batch_timeout=delay_ms / 1e3, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="error", generate_client_file=False)
