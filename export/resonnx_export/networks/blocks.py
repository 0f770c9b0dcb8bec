"""Residual blocks, skip connections and channel gates, with the keys of torchvision, timm and CIFAR repositories."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Shortcut = Literal["convolution", "average", "pad"]
Gate = Literal["none", "se", "eca"]


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


class PadShortcut(nn.Module):
    """He et al.'s option A, without weights: every second position, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,inputs,h,w] to [N,outputs,h/stride,w/stride]."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))


def make_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Return the skip connection of a block that changes the shape; None for the identity."""
    if stride == 1 and inputs == outputs:
        return None
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    if kind == "convolution":
        return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))


class SqueezeExcite(nn.Module):
    """Scales channels by two layers over their means (timm's SEModule)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to the same shape."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class EfficientChannelAttention(nn.Module):
    """Scales channels by a convolution over the means of neighbouring channels (timm's EcaModule)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=(kernel - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to the same shape."""
        means = x.mean(dim=(2, 3)).unsqueeze(1)
        return x * torch.sigmoid(self.conv(means)).transpose(1, 2).unsqueeze(3)


def make_gate(kind: Gate, channels: int, size: int) -> nn.Module | None:
    """Return a gate for a block's output, or None. `size`: an SE gate's hidden channels, an ECA gate's kernel."""
    if kind == "none":
        return None
    return SqueezeExcite(channels, size) if kind == "se" else EfficientChannelAttention(size)


class _Block(nn.Module, ABC):
    """A residual block: skip connection, convolutions, channel gate, activation."""

    downsample: nn.Module | None
    se: nn.Module | None
    relu: nn.Module

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Apply the convolutions to x [N,inputs,h,w]."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.residual(x)
        if self.se is not None:
            x = self.se(x)
        return self.relu(x + shortcut)  # type: ignore[no-any-return]


class BasicBlock(_Block):
    """Two 3x3 convolutions and a skip connection: [N,inputs,h,w] -> [N,planes,h/stride,w/stride]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: nn.Module | None, se: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample, self.se = shortcut, se

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))  # type: ignore[no-any-return]


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions and a skip connection: [N,inputs,h,w] -> [N,4*planes,h/stride,w/stride].

    The stride sits in the 3x3 convolution, as in torchvision ("ResNet v1.5"), or in the first 1x1 as in He et al. and
    Caffe; keys and shapes are the same.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        strides: tuple[int, int],
        width: int,
        groups: int,
        shortcut: nn.Module | None,
        se: nn.Module | None,
    ) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = conv1x1(inputs, width, strides[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, strides[1], groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample, self.se = shortcut, se

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
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
