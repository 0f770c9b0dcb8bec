"""Whether a checkpoint's graph answers as the source's own forward pass, and small networks to ask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.cli import app
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.parity import open_session
from resonnx_server.runtime.pictures.images import Pixels
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ..networks import torchvision_oracle  # noqa: F401  It makes torchvision importable.

SIZE = 48
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepared(images: Pixels, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Scale and normalise as torchvision's ToTensor and Normalize."""
    pictures = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float().div(255) for image in images])
    return (pictures - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def assert_close(found: np.ndarray[Any, Any], reference: Tensor) -> None:
    expected = reference.numpy()
    assert found.shape == expected.shape
    assert np.ptp(expected) > 1e-2 * np.abs(expected).max(), "the answers do not depend on the picture"
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def recognised(path: Path, *, stride_in_1x1: bool = False) -> RecognisedCheckpoint:
    return recognise_classifier(load_checkpoint(path).state_dict, stride_in_1x1=stride_in_1x1)


def assert_same(
    path: Path, source: nn.Module, *, stride_in_1x1: bool = False, traced: bool = True
) -> RecognisedCheckpoint:
    """Compare the logits of the checkpoint's graph, or of its network only, with the source's."""
    found = recognised(path, stride_in_1x1=stride_in_1x1)
    assert isinstance(found.network, ClassifierNetwork)
    recipe = image_input(SIZE, resize_short_side=None)
    images = check_pictures(recipe, 3, seed=1)
    with torch.no_grad():
        expected = source(prepared(images))
        if traced:
            session = open_session(trace_classifier(found.network, recipe))
            assert_close(session.run({"image": images}, ["logits"])["logits"], expected)
        else:
            assert_close(found.network(prepared(images)).numpy(), expected)
    return found


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def small(**options: Any) -> Any:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], **({"num_classes": 7} | options))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 7)),
    "mlp": lambda: nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 7)),
    "mlp with dropout": lambda: nn.Sequential(
        nn.Dropout(0.2), nn.Linear(512, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 7)
    ),
    "two linear": lambda: nn.Sequential(nn.Linear(512, 32), nn.Linear(32, 7)),
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
