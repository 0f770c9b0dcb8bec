"""What people write around a classifier: the pixels of a picture file, and the best labels.

Copied beside each peer's application, and imports nothing of resonnx: it runs in the peer's own environment.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_SHORT_SIDE, _SIDE, _BEST = 256, 224, 5
_LABELS = Path(os.environ["PEER_LABELS"]).read_text().splitlines() if "PEER_LABELS" in os.environ else []


def pixels(content: bytes) -> Any:
    """Decode a picture file as torchvision's Resize(256), CenterCrop(224) do; uint8 [224,224,3].

    With PEER_INPUT=pixels, the content is those pixels.
    """
    if os.environ.get("PEER_INPUT") == "pixels":
        return np.frombuffer(content, np.uint8).reshape(_SIDE, _SIDE, 3)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    size = (int(_SHORT_SIDE * width / short), int(_SHORT_SIDE * height / short))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - _SIDE) / 2) for side in size)
    return np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE)))


def best(probabilities: Any) -> dict[str, Any]:
    """Return the answer to one picture: the five best labels with their probabilities, best first."""
    order = np.argsort(-probabilities)[:_BEST]
    return {"predictions": [{"label": _LABELS[i], "score": float(probabilities[i])} for i in order]}
