"""The ONNX model as a custom runtime of MLServer, which batches by its own adaptive batching.

Takes the input "image", or picture files as "file".
"""

from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from ort_session import open_session
from uploads import pixels


class OnnxModel(MLModel):  # type: ignore[misc]
    """What model-settings.json names."""

    async def load(self) -> bool:
        """Open the session."""
        self._session = open_session()
        self._names = [node.name for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one batch."""
        image = self._image(payload.inputs[0])
        outputs = self._session.run(self._names, {"image": image})
        encoded = [NumpyCodec.encode_output(name, output) for name, output in zip(self._names, outputs, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=encoded)

    def _image(self, given: Any) -> Any:
        """Return a batch's rows."""
        if given.name == "file":
            return np.stack([pixels(bytes(content)) for content in given.data])
        return NumpyCodec.decode_input(given)
