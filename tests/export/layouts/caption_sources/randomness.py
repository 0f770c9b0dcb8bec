"""Makes random checkpoints worth comparing: settled BatchNorms, varied captions, and pictures to write about."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def settle(module: nn.Module, run: Callable[[], object]) -> None:
    """Give BatchNorms the statistics of what `run` puts through them."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
    module.train()
    with torch.no_grad():
        run()
    module.eval()


@torch.no_grad()
def enliven(module: nn.Module, output: nn.Linear, write: Callable[[], tuple[Tensor, Tensor]], end: int) -> None:
    """Make random weights write varied captions: larger matrices, and every word as likely as the others on average.

    Args:
        module: Its matrices are enlarged, not its convolutions.
        output: The layer that scores the words.
        write: Gives ids and scores [N,T,V] of some pictures.
        end: The word that ends captions; it is made likelier.
    """
    for value in module.parameters():
        if value.dim() == 2:
            value *= 3
    for _ in range(3):
        scores = write()[1]
        output.bias -= scores.mean(dim=(0, 1))
    output.bias[end] += scores[..., end].std() / 2


@torch.no_grad()
def centre(layer: nn.Linear, features: Tensor) -> None:
    """Make a layer answer features [N,D] with mean 0 and deviation 1: random networks see all pictures alike."""
    answers = layer(features)
    layer.weight /= answers.std(0).unsqueeze(1)
    layer.bias.copy_((layer.bias - answers.mean(0)) / answers.std(0))


def pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Make uint8 [N,size,size,3]: coarse fields of random colour, with noise."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.clip(fields + rng.integers(-40, 41, fields.shape), 0, 255).astype(np.uint8)


def normalised(images: np.ndarray) -> Tensor:
    """ToTensor and Normalize with ImageNet's numbers."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(((images / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
