"""Residual blocks, skip connections and channel gates, with the keys of torchvision, timm and CIFAR repositories."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from resonnx_export.networks.unrecorded import Unrecorded, make_activation, make_anti_aliasing

Shortcut = Literal["convolution", "average", "pad"]
Gate = Literal["none", "se", "eca"]


@dataclass(frozen=True)
class Geometry:
    """How a block samples its input.

    Attributes:
        stride: Of the block.
        first_dilation: Of its first 3x3 convolution.
        dilation: Of a second.
        kernel: Of the convolution in its skip connection.
    """

    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1
    kernel: int = 1


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


class PadShortcut(nn.Module):
    """He et al.'s option A, without weights: fewer positions, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, unrecorded: Unrecorded) -> None:
        super().__init__()
        added = outputs - inputs
        before = 0 if unrecorded.padded_channels == "end" else added // 2
        self.stride, self.added = stride, (before, added - before)
        self.averages = unrecorded.padded_pool == "avg"

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,outputs,h/stride,w/stride]."""
        x = functional.avg_pool2d(x, self.stride) if self.averages else x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, *self.added))


class _SameAverage(nn.Module):
    """Averages 2x2 positions with a stride of 1, with a row and a column of zeros after the last."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to the same shape."""
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1)), 2, 1)


def make_shortcut(
    kind: Shortcut, inputs: int, outputs: int, geometry: Geometry, unrecorded: Unrecorded
) -> nn.Module | None:
    """Return the skip connection of a stage's first block; None for the identity."""
    stride = geometry.stride
    if stride == 1 and inputs == outputs:
        return None
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride, unrecorded)
    if kind == "convolution":
        sampling = (
            conv3x3(inputs, outputs, stride, dilation=geometry.first_dilation)
            if geometry.kernel == 3
            else conv1x1(inputs, outputs, stride)
        )
        return nn.Sequential(sampling, nn.BatchNorm2d(outputs))
    pool: nn.Module = nn.Identity() if geometry.dilation == 1 else _SameAverage()
    if stride > 1:
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))


def _gate_function(unrecorded: Unrecorded) -> nn.Module:
    return nn.Hardsigmoid() if unrecorded.gate == "hard-sigmoid" else nn.Sigmoid()


class SqueezeExcite(nn.Module):
    """Scales channels by two layers over their means (timm's SEModule)."""

    def __init__(self, channels: int, hidden: int, unrecorded: Unrecorded) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.activation = make_activation(unrecorded.gate_activation)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = _gate_function(unrecorded)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to the same shape."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(means))))  # type: ignore[no-any-return]


class EfficientChannelAttention(nn.Module):
    """Scales channels by a convolution over the means of neighbouring channels (timm's EcaModule)."""

    def __init__(self, kernel: int, unrecorded: Unrecorded) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=(kernel - 1) // 2, bias=False)
        self.gate = _gate_function(unrecorded)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to the same shape."""
        means = x.mean(dim=(2, 3)).unsqueeze(1)
        return x * self.gate(self.conv(means)).transpose(1, 2).unsqueeze(3)  # type: ignore[no-any-return]


def make_gate(kind: Gate, channels: int, size: int, unrecorded: Unrecorded) -> nn.Module | None:
    """Return a gate for a block's output, or None. `size`: an SE gate's hidden channels, an ECA gate's kernel."""
    if kind == "none":
        return None
    if kind == "se":
        return SqueezeExcite(channels, size, unrecorded)
    return EfficientChannelAttention(size, unrecorded)


class _Block(nn.Module, ABC):
    """A residual block: skip connection, convolutions, channel gate, activation."""

    downsample: nn.Module | None
    se: nn.Module | None
    activation: nn.Module

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Apply the convolutions to x [N,inputs,h,w]."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.residual(x)
        if self.se is not None:
            x = self.se(x)
        return self.activation(x + shortcut)  # type: ignore[no-any-return]


def _strided(inputs: int, outputs: int, groups: int, geometry: Geometry, unrecorded: Unrecorded) -> list[nn.Module]:
    """Return the 3x3 convolution of a block that strides, and the filter after its activation."""
    stride = geometry.stride
    if unrecorded.anti_aliasing == "none" or (stride == 1 and geometry.first_dilation == geometry.dilation):
        return [conv3x3(inputs, outputs, stride, groups, geometry.first_dilation), nn.Identity()]
    convolution = conv3x3(inputs, outputs, 1, groups, geometry.first_dilation)
    return [convolution, make_anti_aliasing(unrecorded.anti_aliasing, outputs, stride)]


class BasicBlock(_Block):
    """Two 3x3 convolutions and a skip connection: [N,inputs,h,w] -> [N,planes,h/stride,w/stride]."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        planes: int,
        geometry: Geometry,
        shortcut: nn.Module | None,
        se: nn.Module | None,
        unrecorded: Unrecorded,
    ) -> None:
        super().__init__()
        self.conv1, self.filter = _strided(inputs, planes, 1, geometry, unrecorded)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, dilation=geometry.dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.activation = make_activation(unrecorded.activation)
        self.inner = make_activation(unrecorded.inner_activation or unrecorded.activation)
        self.downsample, self.se = shortcut, se

    def residual(self, x: Tensor) -> Tensor:
        x = self.filter(self.inner(self.bn1(self.conv1(x))))
        return self.bn2(self.conv2(x))  # type: ignore[no-any-return]


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions and a skip connection: [N,inputs,h,w] -> [N,4*planes,h/stride,w/stride]."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        widths: tuple[int, int],
        groups: int,
        geometry: Geometry,
        shortcut: nn.Module | None,
        se: nn.Module | None,
        unrecorded: Unrecorded,
    ) -> None:
        super().__init__()
        (first, width), outputs, stride = widths, planes * self.expansion, 1
        if unrecorded.stride_in_1x1:
            stride, geometry = geometry.stride, replace(geometry, stride=1)
        self.conv1 = conv1x1(inputs, first, stride)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2, self.filter = _strided(first, width, groups, geometry, unrecorded)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.activation = make_activation(unrecorded.activation)
        self.inner = make_activation(unrecorded.inner_activation or unrecorded.activation)
        self.downsample, self.se = shortcut, se

    def residual(self, x: Tensor) -> Tensor:
        x = self.inner(self.bn1(self.conv1(x)))
        x = self.filter(self.inner(self.bn2(self.conv2(x))))
        return self.bn3(self.conv3(x))  # type: ignore[no-any-return]


def adaptive_average(grid: Tensor, side: int) -> Tensor:
    """Average [N,D,h,w] over side x side overlapping windows: [N,D,side,side].

    As AdaptiveAvgPool2d, which the tracer turns into gathers over computed indices; these are two matrix products.
    """
    height, width = grid.shape[2:]
    if (height, width) == (side, side):
        return grid
    rows, columns = _windows(height, side), _windows(width, side)
    return torch.matmul(torch.matmul(rows.to(grid), grid), columns.to(grid).T)


def _windows(size: int, side: int) -> Tensor:
    """Return [side,size]: row i averages the cells floor(i*size/side) to ceil((i+1)*size/side) - 1."""
    windows = torch.zeros(side, size)
    for i in range(side):
        start, end = i * size // side, -(-(i + 1) * size // side)
        windows[i, start:end] = 1 / (end - start)
    return windows
