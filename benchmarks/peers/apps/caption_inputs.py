"""A captioner's words, and its input of a picture file, as the tutorial makes it."""

import io
from typing import Any

import numpy as np
from PIL import Image

WORDS = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(4, 10_000))]
_SIDE = 224
_MEAN, _STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)


def transform(content: bytes) -> Any:
    """Decode, stretch and normalise a picture; float32 [3,224,224]."""
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32) / 255
    return np.ascontiguousarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1))
