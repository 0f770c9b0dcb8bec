"""The ONNX model behind BentoML, with its adaptive batching."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from ort_session import open_session
from uploads import best, pixels


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 60, "max_concurrency": 1024})
class Classifier:
    """What BentoML serves."""

    def __init__(self) -> None:
        self._session = open_session()

    @bentoml.api(
        batchable=True,
        max_batch_size=int(os.environ["PEER_BATCH"]),
        max_latency_ms=int(os.environ["PEER_DELAY_MS"]),
    )
    def classify(self, file: list[Path]) -> list[dict[str, Any]]:
        """Answer the pictures that were joined."""
        images = np.stack([pixels(path.read_bytes()) for path in file])
        return [best(row) for row in self._session.run(["probabilities"], {"image": images})[0]]
