"""The ONNX model behind Triton's Python backend: joins the requests that Triton hands over, runs, and splits.

Takes the input "image", or picture files as "file".
"""

import os
import sys
from pathlib import Path
from typing import Any

# Triton's stub embeds an isolated Python, which looks neither beside this file nor into an environment.
sys.path[:0] = [str(Path(__file__).parent), os.environ["PEER_PACKAGES"]]
import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from ort_session import open_session  # noqa: E402
from uploads import pixels  # noqa: E402


class TritonPythonModel:
    """What the Python backend looks for."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Open the session."""
        self._session = open_session()
        self._names = [node.name for node in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch."""
        images = [self._image(request) for request in requests]
        outputs = self._session.run(self._names, {"image": np.concatenate(images) if len(images) > 1 else images[0]})
        responses, start = [], 0
        for image in images:
            end = start + len(image)
            tensors = [
                pb_utils.Tensor(name, output[start:end]) for name, output in zip(self._names, outputs, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
            start = end
        return responses

    def _image(self, request: Any) -> Any:
        """Return a request's rows."""
        if (files := pb_utils.get_input_tensor_by_name(request, "file")) is not None:
            return np.stack([pixels(content) for content in files.as_numpy().ravel()])
        return pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
