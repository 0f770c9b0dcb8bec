"""Networks of torchvision with properties that their state_dict does not record."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..layouts.classifier_sources import randomise
from ..networks.torchvision_oracle import get_model

# After torchvision_oracle.
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # isort: skip

assert get_model


def small(block: type[BasicBlock | Bottleneck] = BasicBlock, **options: Any) -> ResNet:
    """Return a ResNet of four blocks and five classes."""
    return ResNet(block, [1, 1, 1, 1], num_classes=5, **options)


def activated(activation: Callable[[], nn.Module]) -> ResNet:
    """Return a network with another activation."""
    network = small()
    for module in [each for each in network.modules() if hasattr(each, "relu")]:
        module.relu = activation()
    return network


def pooled(pool: nn.Module) -> ResNet:
    """Return a network with another pool after the stem."""
    network = small()
    network.maxpool = pool
    return network


def with_epsilon(eps: float) -> ResNet:
    """Return a network with another epsilon of BatchNorm."""
    network = small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return network


def strided(stem: int = 2, last: int = 2) -> ResNet:
    """Return a network with other strides of its stem and its last stage."""
    network = small()
    network.conv1.stride = (stem, stem)
    block = network.layer4[0]
    block.conv1.stride = block.downsample[0].stride = (last, last)
    return network


def caffe() -> ResNet:
    """Return a network with the strides in the first convolution of each block."""
    network = small(Bottleneck)
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return network


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def globally_pooled(function: Callable[[Tensor], Tensor], inputs: int = 512) -> ResNet:
    """Return a network with another pool before its head."""
    network = small()
    network.avgpool, network.fc = _Function(function), nn.Linear(inputs, 5)
    return network


def _average(x: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(x, 1)


def _maximum(x: Tensor) -> Tensor:
    return functional.adaptive_max_pool2d(x, 1)


# The properties' right values, and the network.
SILENT: dict[str, tuple[dict[str, str], Callable[[], nn.Module]]] = {
    "SiLU": ({"activation": "silu"}, lambda: activated(nn.SiLU)),
    "GELU": ({"activation": "gelu"}, lambda: activated(nn.GELU)),
    "leaky": ({"activation": "leaky_relu:0.1"}, lambda: activated(lambda: nn.LeakyReLU(0.1))),
    "tanh": ({"activation": "tanh"}, lambda: activated(nn.Tanh)),
    "epsilon": ({"bn-eps": "0.001"}, lambda: with_epsilon(1e-3)),
    "no pool": ({"pool": "none"}, lambda: pooled(nn.Identity())),
    "Caffe's pool": ({"pool": "max-ceil"}, lambda: pooled(nn.MaxPool2d(3, 2, ceil_mode=True))),
    "average pool": ({"pool": "avg"}, lambda: pooled(nn.AvgPool2d(3, 2, 1))),
    "average pool of 2x2": ({"pool": "avg-2x2"}, lambda: pooled(nn.AvgPool2d(2))),
    "pool of 2x2": ({"pool": "max-2x2"}, lambda: pooled(nn.MaxPool2d(2))),
    "stem of stride 1": ({"stem-stride": "1"}, lambda: strided(stem=1)),
    "last stage of stride 1": ({"strides": "1-2-2-1"}, lambda: strided(last=1)),
    "Caffe's strides": ({"stride-in": "1x1"}, caffe),
    "dilated": (
        {"dilation": "layer4"},
        lambda: small(Bottleneck, replace_stride_with_dilation=[False, False, True]),
    ),
    "dilated twice": (
        {"dilation": "layer3-4"},
        lambda: small(Bottleneck, replace_stride_with_dilation=[False, True, True]),
    ),
    "maximum": ({"global-pool": "max"}, lambda: globally_pooled(_maximum)),
    "both": ({"global-pool": "avgmax"}, lambda: globally_pooled(lambda x: 0.5 * (_average(x) + _maximum(x)))),
    "fastai's pool": (
        {"global-pool": "cat-max-avg"},
        lambda: globally_pooled(lambda x: torch.cat([_maximum(x), _average(x)], 1), 1024),
    ),
    "dilated, no pool, epsilon": (
        {"dilation": "layer4", "pool": "none", "bn-eps": "0.001"},
        lambda: _combined(),
    ),
}


def _combined() -> nn.Module:
    network = small(Bottleneck, replace_stride_with_dilation=[False, False, True])
    network.maxpool = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return network


def silent(name: str) -> nn.Module:
    """Return a network of SILENT with random weights, in eval mode."""
    return randomise(SILENT[name][1]())
