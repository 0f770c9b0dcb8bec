"""Finds the ResNet of a captioner's encoder under any name, whole or as a Sequential of its children."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

_WHOLE: Final = re.compile(r"(?P<prefix>(?:.*\.)?)layer1\.0\.conv1\.weight")
# nn.Sequential(*resnet.children()): conv1, bn1, relu, maxpool, then the stages.
_CUT: Final = re.compile(r"(?P<prefix>(?:.*\.)?)4\.0\.conv1\.weight")
_OWN: Final = re.compile(r"(?:conv1|bn1|layer\d+)\..+")
_CHILD: Final = re.compile(r"(\d{1,3})\.(.+)")
_STEM: Final = {0: "conv1", 1: "bn1"}
_FIRST_STAGE: Final = 4
_LAST_CHILD: Final = 12
# Keys of encoders that are no ResNets, by a part of a key.
_OTHERS: Final = {
    "Conv2d_1a_3x3": "Inception v3",
    "Mixed_5b": "Inception v3",
    "inception4a": "GoogLeNet",
    "denseblock1": "DenseNet",
    "cls_token": "a Vision Transformer",
    "class_token": "a Vision Transformer",
    "class_embedding": "a Vision Transformer",
    "relative_position_bias_table": "a Swin Transformer",
    "_depthwise_conv": "EfficientNet",
    "conv_dw": "EfficientNet or MobileNet",
    "features.1.conv.0.0.weight": "MobileNet v2",
    "features.0.0.block": "EfficientNet",
    "features.28.weight": "VGG",
    "features.24.weight": "VGG",
    "features.1.0.layer_scale": "ConvNeXt",
}


@dataclass(frozen=True)
class Trunk:
    """A ResNet in a part's tensors.

    Attributes:
        tensors: The ResNet's, under torchvision's keys, without `fc`.
        rest: The part's other tensors, under their own keys.
        prefix: Of the ResNet's keys in the part.
        whole: Whether it has torchvision's names; otherwise it is a Sequential of the children.
    """

    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    prefix: str
    whole: bool


def find_trunk(tensors: Mapping[str, Tensor]) -> Trunk | None:
    """Find the first ResNet in a part; None if there is none."""
    for pattern, whole in ((_WHOLE, True), (_CUT, False)):
        for match in filter(None, map(pattern.fullmatch, tensors)):
            prefix = match["prefix"]
            found = {key: _renamed(key.removeprefix(prefix), whole) for key in tensors if key.startswith(prefix)}
            trunk = {new: tensors[key] for key, new in found.items() if new is not None}
            if any(key.startswith("conv1.") for key in trunk):
                rest = {key: value for key, value in tensors.items() if found.get(key) is None}
                return Trunk(trunk, rest, prefix, whole)
    return None


def _renamed(key: str, whole: bool) -> str | None:
    """Return the torchvision key of a ResNet's key without its prefix; None if it is of another layer."""
    if whole:
        return key if _OWN.fullmatch(key) else None
    if (match := _CHILD.fullmatch(key)) is None:
        return None
    child, rest = int(match[1]), match[2]
    if child in _STEM:
        return f"{_STEM[child]}.{rest}"
    # The classification layer of list(children()) has no block numbers.
    staged = _FIRST_STAGE <= child <= _LAST_CHILD and rest[:1].isdigit()
    return f"layer{child - _FIRST_STAGE + 1}.{rest}" if staged else None


def other_encoder(parts: Sequence[Mapping[str, Tensor]]) -> str | None:
    """Name the encoder in the parts if it is known and no ResNet."""
    keys = [key for part in parts for key in part]
    if any(value.dim() == 5 for part in parts for value in part.values()):
        return "a video network (3-D convolutions)"
    return next((name for hallmark, name in _OTHERS.items() if any(hallmark in key for key in keys)), None)
