"""The classifiers of public sources, written from their code as small modules: keys, shapes and forward passes.

They share nothing with resonnx_export.networks, which they are held against.
"""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def randomise(module: nn.Module) -> nn.Module:
    """Give every tensor random values of a size that keeps activations in range, also BatchNorm's statistics."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("weight") else value.normal_(0, 0.1)
    return module.eval().requires_grad_(False)


# timm/models/resnet.py: BasicBlock and Bottleneck with downsample_conv or downsample_avg, and an attention layer `se`.


class SEModule(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 16)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1, bias=True)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.fc2(gate).sigmoid()


class EcaModule(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            1, 1, kernel_size=5 if channels > 64 else 3, padding=2 if channels > 64 else 1, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * y.view(x.shape[0], -1, 1, 1).sigmoid().expand_as(x)


class TimmBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int, *, bottleneck: bool, avg: bool, attn: str) -> None:
        super().__init__()
        outplanes = planes * (4 if bottleneck else 1)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv3, self.bn3 = nn.Conv2d(planes, outplanes, 1, bias=False), nn.BatchNorm2d(outplanes)
        else:
            self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = nn.Conv2d(planes, outplanes, 3, 1, 1, bias=False), nn.BatchNorm2d(outplanes)
        self.se = {"se": SEModule, "eca": EcaModule}[attn](outplanes) if attn else None
        self.downsample = None
        if stride != 1 or inplanes != outplanes:
            if avg:
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
                conv = nn.Conv2d(inplanes, outplanes, 1, stride=1, bias=False)
                self.downsample = nn.Sequential(pool, conv, nn.BatchNorm2d(outplanes))
            else:
                conv = nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outplanes))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(functional.relu(x)))
        if self.se is not None:
            x = self.se(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return functional.relu(x + shortcut)


class Timm(nn.Module):
    """resnet{18,50}{,c,d,t} and their se/eca variants, of one block a stage."""

    def __init__(self, *, bottleneck: bool, deep: tuple[int, int] | None, avg: bool, attn: str = "") -> None:
        super().__init__()
        if deep:
            first, second = deep
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(first),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=1, padding=1, bias=False),
                nn.BatchNorm2d(second),
                nn.ReLU(),
                nn.Conv2d(second, 16, 3, stride=1, padding=1, bias=False),
            )
        else:
            self.conv1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)  # type: ignore[assignment]
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage in range(4):
            block = TimmBlock(channels, 16 << stage, 1 + (stage > 0), bottleneck=bottleneck, avg=avg, attn=attn)
            setattr(self, f"layer{stage + 1}", nn.Sequential(block))
            channels = (16 << stage) * (4 if bottleneck else 1)
        self.fc = nn.Linear(channels, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return cast(Tensor, self.fc(x.mean((2, 3))))


# transformers/models/resnet/modeling_resnet.py.


class HFConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalization(self.convolution(x))
        return functional.relu(x) if self.relu else x


class HFLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, bottleneck: bool, in_bottleneck: bool) -> None:
        super().__init__()
        changes = inputs != outputs or stride != 1
        self.shortcut = HFConv(inputs, outputs, 1, stride, relu=False) if changes else nn.Identity()
        if bottleneck:
            reduced = outputs // 4
            self.layer = nn.Sequential(
                HFConv(inputs, reduced, 1, stride if in_bottleneck else 1),
                HFConv(reduced, reduced, 3, 1 if in_bottleneck else stride),
                HFConv(reduced, outputs, 1, relu=False),
            )
        else:
            self.layer = nn.Sequential(HFConv(inputs, outputs, 3, stride), HFConv(outputs, outputs, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layer(x) + self.shortcut(x))


class HuggingFace(nn.Module):
    """ResNetForImageClassification, of one layer a stage but for the second."""

    def __init__(self, *, bottleneck: bool, downsample_in_bottleneck: bool = False) -> None:
        super().__init__()
        sizes = [64, 128, 256, 512] if bottleneck else [16, 32, 64, 128]
        embedder, encoder, resnet = nn.Module(), nn.Module(), nn.Module()
        embedder.embedder = HFConv(3, 16, 7, 2)
        stages, inputs = [], 16
        for number, size in enumerate(sizes):
            stage, layers = nn.Module(), []
            for depth in range(2 if number == 1 else 1):
                stride = 2 if number > 0 and depth == 0 else 1
                layers.append(
                    HFLayer(inputs, size, stride, bottleneck=bottleneck, in_bottleneck=downsample_in_bottleneck)
                )
                inputs = size
            stage.layers = nn.Sequential(*layers)
            stages.append(stage)
        encoder.stages = nn.ModuleList(stages)
        resnet.embedder, resnet.encoder = embedder, encoder
        self.resnet = resnet
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.get_submodule("resnet.embedder.embedder")(x), kernel_size=3, stride=2, padding=1)
        for stage in range(4):
            x = self.get_submodule(f"resnet.encoder.stages.{stage}.layers")(x)
        return cast(Tensor, self.classifier(functional.adaptive_avg_pool2d(x, (1, 1))))


# kuangliu/pytorch-cifar models/resnet.py and akamaster/pytorch_resnet_cifar10 resnet.py.


class CifarBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int, *, bottleneck: bool, option_a: bool) -> None:
        super().__init__()
        self.stride, self.option_a, self.bottleneck = stride, option_a, bottleneck
        out = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(in_planes, planes, kernel_size=1, bias=False), nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.conv3, self.bn3 = nn.Conv2d(planes, out, kernel_size=1, bias=False), nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        self.padding = 0
        if stride != 1 or in_planes != out:
            if option_a:
                self.padding = planes // 4
            else:
                conv = nn.Conv2d(in_planes, out, kernel_size=1, stride=stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(functional.relu(out)))
        shortcut = self.shortcut(x)
        if self.padding:
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding), "constant", 0)
        return functional.relu(out + shortcut)


class Cifar(nn.Module):
    """kuangliu's (four stages) and akamaster's (three, from 16 channels)."""

    def __init__(self, blocks: list[int], planes: int, *, bottleneck: bool = False, option_a: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        channels = planes
        for stage, count in enumerate(blocks):
            layers = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                width = planes << stage
                layers.append(CifarBlock(channels, width, stride, bottleneck=bottleneck, option_a=option_a))
                channels = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.linear = nn.Linear(channels, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        x = functional.avg_pool2d(x, x.size()[3])
        return cast(Tensor, self.linear(x.view(x.size(0), -1)))


def wrapped(state_dict: dict[str, Tensor], *prefixes: str) -> OrderedDict[str, Tensor]:
    """Put a wrapper's prefixes before every key."""
    return OrderedDict(("".join(prefixes) + key, value) for key, value in state_dict.items())
