"""Two small models of real handwriting, with their weights: `digits` reads one digit, `scenes` captions several."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from resonnx_export.demo.digits import INPUT_SIZE as DIGITS_INPUT_SIZE
from resonnx_export.demo.digits import LABELS, UInt8
from resonnx_export.demo.scenes import INPUT_SIZE as SCENES_INPUT_SIZE
from resonnx_export.demo.scenes import MAX_WORDS, VOCABULARY
from resonnx_export.networks.captioner import Captioner, config_from_state_dict
from resonnx_export.networks.detect import load_strict, resnet_config_from_state_dict
from resonnx_export.networks.resnet import ResNet

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
# Both models get (pixel / 255 - MEAN) / STD after a bilinear resize to the input size.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def load_digits_model(path: Path = WEIGHTS / "digits.safetensors") -> ResNet:
    """Return the digit model in eval mode; its classes are LABELS."""
    state_dict = load_file(path)
    model = ResNet(resnet_config_from_state_dict(state_dict))
    load_strict(model, state_dict)
    return model.eval()


def load_scenes_model(path: Path = WEIGHTS / "scenes.safetensors") -> Captioner:
    """Return the captioner in eval mode; its vocabulary is VOCABULARY."""
    state_dict = load_file(path)
    model = Captioner(config_from_state_dict(state_dict))
    load_strict(model, state_dict)
    return model.eval()


def resize(picture: UInt8, size: int) -> UInt8:
    """Resize an RGB picture uint8 [h,w,3] as the server does: uint8 [size,size,3]."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Turn pixels uint8 [N,H,W,3] into both models' input, float [N,3,H,W]."""
    mean, std = (torch.tensor(values) * 255 for values in (MEAN, STD))
    return ((pictures - mean) / std).permute(0, 3, 1, 2)
