"""Small networks of torchvision and timm, changed after they were made."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from ..networks import torchvision_oracle  # noqa: F401  It makes torchvision importable.

resnet = pytest.importorskip("torchvision.models.resnet")
timm = pytest.importorskip("timm")


def small(block: str = "BasicBlock", **more: Any) -> nn.Module:
    """torchvision's own class, of one block a stage."""
    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=5, **more)  # type: ignore[no-any-return]


def of_timm(name: str, **more: Any) -> nn.Module:
    made: nn.Module = timm.create_model(name, layers=(1, 1, 1, 2), num_classes=5, **more)
    return made


def changed(make: Callable[[], nn.Module], **children: nn.Module) -> nn.Module:
    made = make()
    for name, child in children.items():
        parent, _, last = name.rpartition("__")
        setattr(made.get_submodule(parent.replace("__", ".")), last, child)
    return made
