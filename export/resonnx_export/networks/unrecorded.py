"""Properties of a ResNet that the keys and shapes of a state_dict do not record, and the layers that they choose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

StemPool = Literal["max", "max-ceil", "max-2x2", "avg", "avg-2x2", "none"]
AntiAliasing = Literal["none", "blur", "avg"]
GlobalPool = Literal["avg", "max", "avgmax", "cat-avg-max", "cat-max-avg"]

_LEAKY: Final = "leaky_relu:"
_ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


@dataclass(frozen=True)
class Unrecorded:
    """The values of a network; the defaults are torchvision's.

    Attributes:
        activation: After each normalisation and each addition, as make_activation's.
        inner_activation: Between a block's convolutions; None for `activation`.
        bn_eps: Added to BatchNorm's variances.
        stem_stride: Of the stem's first convolution; None for the stem's own, 2, or 1 of a "small" stem.
        pool: After the stem, as make_stem_pool's; None for the stem's own, "max", or "none" after a "small" stem.
        strides: Of each stage; empty for 1 in the first and 2 in the others.
        stride_in_1x1: Whether a bottleneck's stride is in its first 1x1 convolution (He et al., Caffe) instead of its
            3x3 ("ResNet v1.5").
        dilated: How many of the last stages dilate their 3x3 convolutions instead of striding (torchvision's
            replace_stride_with_dilation, timm's output_stride).
        anti_aliasing: timm's `aa_layer`: strides are replaced by a filter after the activation, "blur" or "avg" pool.
        padded_channels: Whether a shortcut without weights puts new channels on both sides or at the end.
        padded_pool: Whether such a shortcut takes every second position or the average of 2x2.
        gate: The function of an SE or ECA gate.
        gate_activation: Between the layers of an SE gate.
        global_pool: From the feature map to the head's input; "cat-…" concatenates two and doubles the channels.
        head_activation: Between the head's linear layers, where it has room for one.
    """

    activation: str = "relu"
    inner_activation: str | None = None
    bn_eps: float = 1e-5
    stem_stride: int | None = None
    pool: StemPool | None = None
    strides: tuple[int, ...] = ()
    stride_in_1x1: bool = False
    dilated: int = 0
    anti_aliasing: AntiAliasing = "none"
    padded_channels: Literal["both", "end"] = "both"
    padded_pool: Literal["every-second", "avg"] = "every-second"
    gate: Literal["sigmoid", "hard-sigmoid"] = "sigmoid"
    gate_activation: str = "relu"
    global_pool: GlobalPool = "avg"
    head_activation: str = "relu"


# Caffe's ResNet; keys and shapes are the same.
CAFFE: Final = Unrecorded(stride_in_1x1=True, pool="max-ceil")


def make_activation(name: str) -> nn.Module:
    """Return an activation: "relu", "silu" and so on, or "leaky_relu:SLOPE". Raises ValueError for other names."""
    if name.startswith(_LEAKY):
        slope = float(name.removeprefix(_LEAKY))
        if not 0 <= slope < 1:
            raise ValueError(f"the slope {slope} of leaky_relu is not from 0 to below 1")
        return nn.LeakyReLU(slope)
    if name not in _ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; known are {', '.join(_ACTIVATIONS)} and {_LEAKY}SLOPE")
    return _ACTIVATIONS[name]()


class BlurPool(nn.Module):
    """A 3x3 binomial filter with a stride, over reflected edges (timm's BlurPool2d)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        # No buffer: a network may be made on the meta device, where values are lost.
        row = torch.tensor([0.25, 0.5, 0.25], device="cpu")
        self.kernel = torch.outer(row, row).repeat(channels, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,channels,h,w] to [N,channels,h/stride,w/stride]; h and w must be 2 or more."""
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, self.kernel.to(x), stride=self.stride, groups=self.channels)


def make_anti_aliasing(kind: AntiAliasing, channels: int, stride: int) -> nn.Module:
    """Return the filter that replaces the stride of a convolution."""
    if kind == "blur":
        return BlurPool(channels, stride)
    return nn.AvgPool2d(stride) if kind == "avg" and stride > 1 else nn.Identity()


def make_stem_pool(kind: StemPool, channels: int, anti_aliasing: AntiAliasing) -> nn.Module:
    """Return the pool after the stem; timm's anti-aliasing replaces the max pool of 3x3."""
    if kind == "max" and anti_aliasing == "blur":
        return nn.Sequential(nn.MaxPool2d(3, 1, padding=1), BlurPool(channels, 2))
    if kind == "max" and anti_aliasing == "avg":
        return nn.AvgPool2d(2)
    pools: dict[StemPool, Callable[[], nn.Module]] = {
        "max": lambda: nn.MaxPool2d(3, 2, padding=1),
        "max-ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
        "max-2x2": lambda: nn.MaxPool2d(2),
        "avg": lambda: nn.AvgPool2d(3, 2, padding=1),
        "avg-2x2": lambda: nn.AvgPool2d(2),
        "none": nn.Identity,
    }
    return pools[kind]()


def pool_globally(kind: GlobalPool, x: Tensor) -> Tensor:
    """Map [N,D,h,w] to [N,D], or [N,2*D] if two pools are concatenated."""
    # Not adaptive pools, which the tracer turns into a Gather over computed indices.
    if kind == "avg":
        return x.mean(dim=(2, 3))
    if kind == "max":
        return x.amax(dim=(2, 3))
    mean, greatest = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
    if kind == "avgmax":
        return 0.5 * (mean + greatest)
    return torch.cat([mean, greatest] if kind == "cat-avg-max" else [greatest, mean], dim=1)
