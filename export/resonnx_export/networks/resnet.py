"""The interface of classifiers; and ResNet, ResNeXt and Wide ResNet with torchvision's state_dict keys and shapes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from resonnx_export.networks.blocks import BasicBlock, Bottleneck, Gate, Shortcut, conv3x3, make_gate, make_shortcut


class ClassifierNetwork(nn.Module, ABC):
    """Maps normalised float pictures [N,in_channels,H,W] to logits [N,num_classes].

    Attributes:
        fc: The head, from features to logits.
        in_channels: 3, or 1 for grey pictures.
        num_classes: K of the logits; 0 without a head.
        feature_size: D of `forward_features`.
    """

    fc: nn.Module
    in_channels: int
    num_classes: int
    feature_size: int

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Return the head's input [N,D]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N,K]."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: Blocks in each stage; every stage after the first halves the resolution.
        groups: Groups of a bottleneck's 3x3 convolution (ResNeXt).
        width_per_group: Channels of each group in the first stage, for `planes` of 64.
        planes: Channels of the stem and of the first stage before expansion.
        num_classes: Rows of the final layer; 0 leaves it out, and `forward` returns features.
        stem: "imagenet" (7x7 stride 2, max pool), "deep" (three 3x3, the first of stride 2, max pool) or "small" (3x3
            stride 1, no pool).
        in_channels: Channels of the input picture.
        caffe: Caffe's ResNet: the stride of a bottleneck in its first 1x1 convolution, and the stem's pool without
            padding, rounding up. Keys and shapes are the same.
        stride_in_1x1: Only the stride, not the pool.
        stem_widths: Channels after the first and the second convolution of a deep stem.
        shortcut: The skip connection of a block that changes the shape: "convolution" of 1x1, "average" pool and then
            the convolution (timm's `d`), or "pad" with zeros (He et al.'s option A).
        gate: The channel gate of each block's output: "none", "se" or "eca".
        gate_sizes: For each stage, an SE gate's hidden channels or an ECA gate's kernel.
        head: For an nn.Sequential, each linear layer's index in it and its outputs, with ReLU between.
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    planes: int = 64
    num_classes: int = 1000
    stem: Literal["imagenet", "deep", "small"] = "imagenet"
    in_channels: int = 3
    caffe: bool = False
    stride_in_1x1: bool = False
    stem_widths: tuple[int, int] | None = None
    shortcut: Shortcut = "convolution"
    gate: Gate = "none"
    gate_sizes: tuple[int, ...] = ()
    head: tuple[tuple[int, int], ...] = ()

    @property
    def feature_size(self) -> int:
        """Channels of the last stage's output: D of `forward_features`."""
        expansion = Bottleneck.expansion if self.block == "bottleneck" else BasicBlock.expansion
        return (self.planes << len(self.layers) - 1) * expansion


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
    # He et al.'s for CIFAR-10, with option A.
    **{
        f"resnet{6 * blocks + 2}": ResNetConfig("basic", (blocks,) * 3, planes=16, stem="small", shortcut="pad")
        for blocks in (3, 5, 7, 9, 18)
    },
    # The demonstration models: three stages, half the channels.
    "resnet8_w32_small": ResNetConfig("basic", (1, 1, 1), planes=32, stem="small"),
    "resnet12_w32": ResNetConfig("basic", (2, 2, 1), planes=32),
}


class ResNet(ClassifierNetwork):
    """A residual network over normalised float pictures [N,in_channels,H,W]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config, self.in_channels, self.num_classes = config, config.in_channels, config.num_classes
        self.feature_size = config.feature_size
        self.conv1 = _stem(config)
        self.bn1 = nn.BatchNorm2d(config.planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        if config.stem != "small":
            self.maxpool = nn.MaxPool2d(3, 2, padding=0 if config.caffe else 1, ceil_mode=config.caffe)
        self._stages = [f"layer{number}" for number in range(1, len(config.layers) + 1)]
        channels = config.planes
        for index, (name, blocks) in enumerate(zip(self._stages, config.layers, strict=True)):
            stage, channels = _stage(config, channels, index, blocks)
            self.add_module(name, stage)
        self.fc = _head(config)
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
        # Not adaptive_avg_pool2d, which the tracer turns into a Gather over computed indices.
        return self.features_map(x).mean(dim=(2, 3))


def _stem(config: ResNetConfig) -> nn.Module:
    if config.stem == "imagenet":
        return nn.Conv2d(config.in_channels, config.planes, 7, 2, 3, bias=False)
    if config.stem == "small":
        return conv3x3(config.in_channels, config.planes)
    first, second = config.stem_widths or (config.planes // 2, config.planes // 2)
    return nn.Sequential(
        conv3x3(config.in_channels, first, 2),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        conv3x3(first, second),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        conv3x3(second, config.planes),
    )


def _stage(config: ResNetConfig, inputs: int, index: int, blocks: int) -> tuple[nn.Sequential, int]:
    """Return one stage (the first block strides, all but stage 0) and its output channels."""
    planes = config.planes * 2**index
    expansion = BasicBlock.expansion if config.block == "basic" else Bottleneck.expansion
    outputs = planes * expansion
    modules: list[nn.Module] = []
    for number in range(blocks):
        stride = 2 if index > 0 and number == 0 else 1
        shortcut = make_shortcut(config.shortcut, inputs, outputs, stride)
        gate = make_gate(config.gate, outputs, config.gate_sizes[index] if config.gate_sizes else 0)
        if config.block == "basic":
            modules.append(BasicBlock(inputs, planes, stride, shortcut, gate))
        else:
            width = planes * config.width_per_group // 64 * config.groups
            strides = (stride, 1) if config.caffe or config.stride_in_1x1 else (1, stride)
            modules.append(Bottleneck(inputs, planes, strides, width, config.groups, shortcut, gate))
        inputs = outputs
    return nn.Sequential(*modules), inputs


def _head(config: ResNetConfig) -> nn.Module:
    if not config.num_classes:
        return nn.Identity()
    if not config.head:
        return nn.Linear(config.feature_size, config.num_classes)
    inputs = config.feature_size
    # Dropout and other layers without weights do nothing in inference.
    layers: list[nn.Module] = [nn.Identity() for _ in range(config.head[-1][0] + 1)]
    for number, (index, outputs) in enumerate(config.head):
        if number > 0 and index - 1 > config.head[number - 1][0]:
            layers[index - 1] = nn.ReLU()
        layers[index] = nn.Linear(inputs, outputs)
        inputs = outputs
    return nn.Sequential(*layers)
