"""The demonstration: two small models trained on real handwriting, shipped with their weights.

`digits` is a ResNet that reads one digit, `scenes` a captioner that describes several.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from resonnx_export.demo.digits import INPUT_SIZE as DIGITS_INPUT_SIZE
from resonnx_export.demo.digits import LABELS, UInt8
from resonnx_export.demo.scenes import INPUT_SIZE as SCENES_INPUT_SIZE
from resonnx_export.demo.scenes import MAX_WORDS, VOCABULARY
from resonnx_export.networks import (
    Captioner,
    ResNet,
    config_from_state_dict,
    load_strict,
    resnet_config_from_state_dict,
)

__all__ = [
    "DIGITS_INPUT_SIZE",
    "LABELS",
    "MAX_WORDS",
    "MEAN",
    "SCENES_INPUT_SIZE",
    "STD",
    "VOCABULARY",
    "WEIGHTS",
    "load_digits_model",
    "load_scenes_model",
    "normalise",
    "resize",
]

WEIGHTS = Path(__file__).parent / "weights"
MEAN = (0.5, 0.5, 0.5)
"""Both models see (pixel / 255 - MEAN) / STD after a bilinear resize to the input size."""
STD = (0.5, 0.5, 0.5)


def load_digits_model(path: Path = WEIGHTS / "digits.safetensors") -> ResNet:
    """Return the digit model in eval mode; its classes are LABELS."""
    state_dict = load_file(path)
    model = ResNet(resnet_config_from_state_dict(state_dict))
    load_strict(model, state_dict)
    return model.eval()


def load_scenes_model(path: Path = WEIGHTS / "scenes.safetensors") -> tuple[Captioner, list[str]]:
    """Return the captioner in eval mode and its vocabulary, in order of token id."""
    state_dict = load_file(path)
    model = Captioner(config_from_state_dict(state_dict))
    load_strict(model, state_dict)
    return model.eval(), list(VOCABULARY)


def resize(picture: UInt8, size: int) -> UInt8:
    """Resize an RGB picture uint8 [h,w,3] as the server does: uint8 [size,size,3]."""
    resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Turn pixels uint8 [N,H,W,3] into what both models see: float [N,3,H,W]."""
    mean, std = (torch.tensor(values) * 255 for values in (MEAN, STD))
    return ((pictures - mean) / std).permute(0, 3, 1, 2)
