"""The interface of classifiers; and ResNet, ResNeXt and Wide ResNet with torchvision's state_dict keys and shapes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from resonnx_export.networks.blocks import (
    BasicBlock,
    Bottleneck,
    Gate,
    Geometry,
    Shortcut,
    conv3x3,
    make_gate,
    make_shortcut,
)
from resonnx_export.networks.feature_maps import Fits, last_map
from resonnx_export.networks.heads import HeadLayer, make_head
from resonnx_export.networks.unrecorded import (
    StemPool,
    Unrecorded,
    make_activation,
    make_stem_pool,
    pool_globally,
)


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

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's input [N,D] and the logits [N,K]."""
        features = self.forward_features(x)
        return features, self.fc(features)

    def feature_map(self, x: Tensor, shape: tuple[int, ...], fits: Fits) -> Tensor | None:
        """Return the last feature map [N,*shape] for which `fits`; None if no module returns it."""
        return last_map(self, x, shape, fits)


@dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: Blocks in each stage.
        groups: Groups of a bottleneck's 3x3 convolution (ResNeXt).
        width_per_group: Channels of each group in the first stage, for `planes` of 64.
        planes: Channels of the first stage before expansion.
        num_classes: Rows of the final layer; 0 leaves it out, and `forward` returns features.
        stem: "imagenet" (7x7), "deep" (three 3x3) or "small" (3x3).
        in_channels: Channels of the input picture.
        stem_widths: Channels after the first and the second convolution of a deep stem.
        stem_channels: Channels of the stem's output; None for `planes`.
        shortcut: The skip connection of a block that changes the shape: "convolution" of 1x1, "average" pool and then
            the convolution (timm's `d`), or "pad" with zeros (He et al.'s option A).
        shortcut_kernels: For each stage, the kernel of that convolution, 1 or 3; empty for 1.
        reduction: By how much a bottleneck's first convolution is narrower than its second (SENet-154).
        gate: The channel gate of each block's output: "none", "se" or "eca".
        gate_sizes: For each stage, an SE gate's hidden channels or an ECA gate's kernel.
        head: The layers of a head that is an nn.Sequential; empty for one linear layer.
        unrecorded: What keys and shapes do not record.
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    planes: int = 64
    num_classes: int = 1000
    stem: Literal["imagenet", "deep", "small"] = "imagenet"
    in_channels: int = 3
    stem_widths: tuple[int, int] | None = None
    stem_channels: int | None = None
    shortcut: Shortcut = "convolution"
    shortcut_kernels: tuple[int, ...] = ()
    reduction: int = 1
    gate: Gate = "none"
    gate_sizes: tuple[int, ...] = ()
    head: tuple[HeadLayer, ...] = ()
    unrecorded: Unrecorded = field(default_factory=Unrecorded)

    @property
    def stem_outputs(self) -> int:
        """Channels of the stem's output."""
        return self.stem_channels or self.planes

    @property
    def map_channels(self) -> int:
        """Channels of the last stage's output."""
        expansion = Bottleneck.expansion if self.block == "bottleneck" else BasicBlock.expansion
        return (self.planes << len(self.layers) - 1) * expansion

    @property
    def feature_size(self) -> int:
        """Inputs of the head: D of `forward_features`."""
        return self.map_channels * (2 if self.unrecorded.global_pool.startswith("cat") else 1)

    @property
    def stem_stride(self) -> int:
        """The stride of the stem's first convolution."""
        return self.unrecorded.stem_stride or (1 if self.stem == "small" else 2)

    @property
    def stem_pool(self) -> StemPool:
        """The pool after the stem."""
        return self.unrecorded.pool or ("none" if self.stem == "small" else "max")

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage, before dilation replaces it."""
        return self.unrecorded.strides or (1,) + (2,) * (len(self.layers) - 1)


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
    "senet154": ResNetConfig(
        *("bottleneck", (3, 8, 36, 3)),
        groups=64,
        width_per_group=4,
        stem="deep",
        stem_widths=(64, 64),
        stem_channels=128,
        shortcut_kernels=(1, 3, 3, 3),
        reduction=2,
        gate="se",
        gate_sizes=(16, 32, 64, 128),
    ),
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
        self.bn1 = nn.BatchNorm2d(config.stem_outputs)
        self.activation = make_activation(config.unrecorded.activation)
        self.pool = make_stem_pool(config.stem_pool, config.stem_outputs, config.unrecorded.anti_aliasing)
        self._stages = [f"layer{number}" for number in range(1, len(config.layers) + 1)]
        channels, dilation = config.stem_outputs, 1
        for index, name in enumerate(self._stages):
            stage, channels, dilation = _stage(config, channels, index, dilation)
            self.add_module(name, stage)
        self.fc = _head(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = config.unrecorded.bn_eps

    def features_map(self, x: Tensor) -> Tensor:
        """Return the last stage's output: [N,in_channels,H,W] -> [N,D,h,w]."""
        x = self.pool(self.activation(self.bn1(self.conv1(x))))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the feature map, pooled over its positions: [N,D]."""
        return pool_globally(self.config.unrecorded.global_pool, self.features_map(x))


def _stem(config: ResNetConfig) -> nn.Module:
    stride = config.stem_stride
    if config.stem == "imagenet":
        return nn.Conv2d(config.in_channels, config.stem_outputs, 7, stride, 3, bias=False)
    if config.stem == "small":
        return conv3x3(config.in_channels, config.stem_outputs, stride)
    first, second = config.stem_widths or (config.planes // 2, config.planes // 2)
    return nn.Sequential(
        conv3x3(config.in_channels, first, stride),
        nn.BatchNorm2d(first),
        make_activation(config.unrecorded.activation),
        conv3x3(first, second),
        nn.BatchNorm2d(second),
        make_activation(config.unrecorded.activation),
        conv3x3(second, config.stem_outputs),
    )


def _stage(config: ResNetConfig, inputs: int, index: int, dilation: int) -> tuple[nn.Sequential, int, int]:
    """Return one stage, its output channels, and its dilation.

    Its first block strides, or keeps the dilation of the stage before.
    """
    planes, unrecorded = config.planes << index, config.unrecorded
    outputs = planes * (BasicBlock.expansion if config.block == "basic" else Bottleneck.expansion)
    stride, earlier = config.strides[index], dilation
    if index >= len(config.layers) - unrecorded.dilated:
        stride, dilation = 1, dilation * stride
    modules: list[nn.Module] = []
    for number in range(config.layers[index]):
        geometry = Geometry(stride, dilation, dilation)
        shortcut = None
        if number == 0:
            geometry = Geometry(stride, earlier, dilation)
            sampling = replace(geometry, kernel=config.shortcut_kernels[index] if config.shortcut_kernels else 1)
            shortcut = make_shortcut(config.shortcut, inputs, outputs, sampling, unrecorded)
        stride = 1
        gate = make_gate(config.gate, outputs, config.gate_sizes[index] if config.gate_sizes else 0, unrecorded)
        if config.block == "basic":
            modules.append(BasicBlock(inputs, planes, geometry, shortcut, gate, unrecorded))
        else:
            width = planes * config.width_per_group // 64 * config.groups
            widths = (width // config.reduction, width)
            modules.append(Bottleneck(inputs, planes, widths, config.groups, geometry, shortcut, gate, unrecorded))
        inputs = outputs
    return nn.Sequential(*modules), inputs, dilation


def _head(config: ResNetConfig) -> nn.Module:
    if not config.num_classes:
        return nn.Identity()
    if not config.head:
        return nn.Linear(config.feature_size, config.num_classes)
    return make_head(config.feature_size, config.head, config.unrecorded.head_activation, config.unrecorded.bn_eps)
