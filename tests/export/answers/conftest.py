"""Answers of a network that stands for the user's own model."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import resonnx_export
import torch
from PIL import Image
from resonnx_export.networks.resnet import ResNet
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Preprocess = Callable[[Image.Image], Tensor]
RecordAnswers = Callable[..., Path]


def tensor_of(picture: Image.Image) -> Tensor:
    """As torchvision's ToTensor and Normalize with ImageNet's mean and deviation."""
    scaled = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (scaled - mean) / std


def resized(filter_name: str = "BILINEAR", short_side: int = 36, size: int = 32) -> Preprocess:
    """As torchvision's Resize and CenterCrop before that."""

    def preprocess(picture: Image.Image) -> Tensor:
        scale = short_side / min(picture.size)
        sides = [short_side if side == min(picture.size) else int(side * scale) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling[filter_name])
        left, top = (round((side - size) / 2) for side in picture.size)
        return tensor_of(picture.crop((left, top, left + size, top + size)))

    return preprocess


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.fixture(scope="session")
def picture_files() -> list[bytes]:
    """JPEG files of noise of several sizes."""
    files = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 56, 3), np.uint8)
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="session")
def record_answers(network: ResNet, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> RecordAnswers:
    """Record the answers of `network`, or of another model."""

    def record(preprocess: Preprocess = tensor_of, pictures: object = pixels, model: nn.Module = network) -> Path:
        return resonnx_export.record(
            model, pictures, tmp_path_factory.mktemp("answers") / "answers.npz", preprocess=preprocess
        )

    return record
