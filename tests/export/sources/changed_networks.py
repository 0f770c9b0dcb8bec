"""Small networks of torchvision and timm, changed after they were made."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ..networks import torchvision_oracle  # noqa: F401  It makes torchvision importable.

resnet = pytest.importorskip("torchvision.models.resnet")
timm = pytest.importorskip("timm")


def small(block: str = "BasicBlock", **more: Any) -> nn.Module:
    """torchvision's own class, of one block a stage, with an eighth of the channels: 8, 16, 32 and 64."""
    kind = getattr(resnet, block)
    with torch.device("meta"):
        made = resnet.ResNet(kind, [1, 1, 1, 1], num_classes=5, **more)
    dilated = more.get("replace_stride_with_dilation", (False, False, False))
    made.inplanes, made.dilation = 8, 1
    made.conv1, made.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    made.layer1 = made._make_layer(kind, 8, 1)
    for number, dilate in enumerate(dilated, 2):
        setattr(made, f"layer{number}", made._make_layer(kind, 4 << number, 1, stride=2, dilate=dilate))
    made.fc = nn.Linear(64 * kind.expansion, 5)
    return made  # type: ignore[no-any-return]


def of_timm(name: str, **more: Any) -> nn.Module:
    made: nn.Module = timm.create_model(name, layers=(1, 1, 1, 2), channels=(8, 16, 32, 64), num_classes=5, **more)
    return made


def changed(make: Callable[[], nn.Module], **children: nn.Module) -> nn.Module:
    made = make()
    for name, child in children.items():
        parent, _, last = name.rpartition("__")
        setattr(made.get_submodule(parent.replace("__", ".")), last, child)
    return made
