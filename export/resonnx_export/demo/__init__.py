"""Three small models of real handwriting, with weights: of one digit, of scenes of several, of the gestures of one."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resonnx_export.demo.digits import UInt8

WEIGHTS = Path(__file__).parent / "weights"
# All models get (pixel / 255 - MEAN) / STD after a bilinear resize to the input size.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def resize(picture: UInt8, size: int) -> UInt8:
    """Resize an RGB picture uint8 [h,w,3] as the server does: uint8 [size,size,3]."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Turn pixels uint8 [N,H,W,3] into the models' input, float [N,3,H,W]."""
    mean, std = (torch.tensor(values) * 255 for values in (MEAN, STD))
    return ((pictures - mean) / std).permute(0, 3, 1, 2)
