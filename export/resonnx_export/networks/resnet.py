"""ResNet, ResNeXt and Wide ResNet with exactly torchvision's state_dict keys and shapes.

Written here rather than imported so that narrow variants and small pictures fit the same class,
and so that what is traced is what can be read on one page.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: Blocks in each stage; every stage after the first halves the resolution.
        groups: Groups of a bottleneck's 3x3 convolution (ResNeXt).
        width_per_group: Channels of each group in the first stage, for `planes` of 64.
        planes: Channels of the stem and of the first stage before expansion.
        num_classes: Rows of the final layer; 0 leaves it out, and `forward` answers features.
        stem: "imagenet" (7x7 stride 2, max pool) or "small" (3x3 stride 1, no pool).
        in_channels: Channels of the input picture.
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    planes: int = 64
    num_classes: int = 1000
    stem: Literal["imagenet", "small"] = "imagenet"
    in_channels: int = 3

    @property
    def feature_size(self) -> int:
        """Channels of the last stage's output: D of `forward_features`."""
        expansion = Bottleneck.expansion if self.block == "bottleneck" else BasicBlock.expansion
        last_stage = len(self.layers) - 1
        return (self.planes << last_stage) * expansion


ARCHITECTURES: dict[str, ResNetConfig] = {
    "resnet18": ResNetConfig("basic", (2, 2, 2, 2)),
    "resnet34": ResNetConfig("basic", (3, 4, 6, 3)),
    "resnet50": ResNetConfig("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetConfig("bottleneck", (3, 4, 23, 3)),
    "resnet152": ResNetConfig("bottleneck", (3, 8, 36, 3)),
    "resnext50_32x4d": ResNetConfig("bottleneck", (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetConfig("bottleneck", (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": ResNetConfig("bottleneck", (3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": ResNetConfig("bottleneck", (3, 4, 6, 3), width_per_group=128),
    "wide_resnet101_2": ResNetConfig("bottleneck", (3, 4, 23, 3), width_per_group=128),
    # The demonstration models: three stages, half the channels.
    "resnet8_w32_small": ResNetConfig("basic", (1, 1, 1), planes=32, stem="small"),
    "resnet12_w32": ResNetConfig("basic", (2, 2, 1), planes=32),
}


def _conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the shortcut's projection, or None where the identity already fits."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,planes,h/stride,w/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut.

    The stride sits in the 3x3 convolution, as in torchvision ("ResNet v1.5"); Caffe's has it in
    the first 1x1, with the same keys and shapes.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, width: int, groups: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = _conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,4*planes,h/stride,w/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A residual network over normalised float pictures [N,in_channels,H,W]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(config.in_channels, config.planes, 7, 2, 3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = _conv3x3(config.in_channels, config.planes)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(config.planes)
        self.relu = nn.ReLU(inplace=True)
        self._stages = [f"layer{number}" for number in range(1, len(config.layers) + 1)]
        channels = config.planes
        for index, (name, blocks) in enumerate(zip(self._stages, config.layers, strict=True)):
            stage, channels = _stage(config, channels, index, blocks)
            self.add_module(name, stage)
        self.fc = nn.Linear(channels, config.num_classes) if config.num_classes else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features_map(self, x: Tensor) -> Tensor:
        """Return the last stage's output: [N,in_channels,H,W] -> [N,D,h,w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the mean of the feature map over its positions: [N,D]."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.features_map(x), 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N,num_classes]."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


def _stage(config: ResNetConfig, inputs: int, index: int, blocks: int) -> tuple[nn.Sequential, int]:
    """Return one stage (the first block strides, all but stage 0) and its output channels."""
    planes = config.planes * 2**index
    modules: list[nn.Module] = []
    for number in range(blocks):
        stride = 2 if index > 0 and number == 0 else 1
        if config.block == "basic":
            modules.append(BasicBlock(inputs, planes, stride))
            inputs = planes * BasicBlock.expansion
        else:
            width = planes * config.width_per_group // 64 * config.groups
            modules.append(Bottleneck(inputs, planes, stride, width, config.groups))
            inputs = planes * Bottleneck.expansion
    return nn.Sequential(*modules), inputs
