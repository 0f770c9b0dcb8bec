"""The user's own code in docs/exporting.md: the model of resnet50.pth, and the transform of its evaluation."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet

_WEIGHTS = torch.load("resnet50.pth", weights_only=True)

model = ResNet(replace(ARCHITECTURES["resnet18"], planes=8, num_classes=len(_WEIGHTS["fc.bias"])))
model.load_state_dict(_WEIGHTS)


def transform(picture: Image.Image) -> torch.Tensor:
    """As torchvision's Resize(256), CenterCrop(224), ToTensor and Normalize."""
    scale = 256 / min(picture.size)
    width, height = (256 if side == min(picture.size) else int(side * scale) for side in picture.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    cropped = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.tensor(np.array(cropped)).permute(2, 0, 1) / 255 - mean) / std
