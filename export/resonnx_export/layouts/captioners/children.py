"""The ResNet inside an encoder: cut out of torchvision's children, and under its own keys again."""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

# nn.Sequential(*resnet.children()): conv1, bn1, relu, maxpool, then the stages.
_CHILD: Final = re.compile(r"resnet\.(\d+)\.(.+)")
_STEM: Final = {0: "conv1", 1: "bn1"}
_FIRST_STAGE: Final = 4
HALLMARK: Final = "resnet.0.weight"


def split_trunk(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an encoder into its ResNet (conv1.weight, layer1.0. ...) and what stands beside it."""
    trunk, beside = {}, {}
    for key, value in tensors.items():
        if (match := _CHILD.fullmatch(key)) is None:
            beside[key] = value
        else:
            child = int(match[1])
            trunk[f"{_STEM.get(child) or f'layer{child - _FIRST_STAGE + 1}'}.{match[2]}"] = value
    return trunk, beside


def prefixed(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the ResNet's tensors under a captioner's keys, without a classification layer."""
    return {f"trunk.{key}": value for key, value in trunk.items() if not key.startswith("fc.")}
