"""Finds the ResNet of a captioner's encoder under any names, whole or as a Sequential of its children."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from resonnx_export.layouts.names import joined, translated
from resonnx_export.layouts.trunks import trunks_in

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
class Encoder:
    """A ResNet in a part's tensors.

    Attributes:
        tensors: The ResNet's, under torchvision's keys, without `fc`.
        rest: The part's other tensors.
        names: The names of the ResNet's tensors in the part, and torchvision's.
        head: The name of the ResNet's own classification layer; None for a Sequential of its children.
    """

    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    names: Mapping[str, str]
    head: str | None


def find_encoder(tensors: Mapping[str, Tensor]) -> Encoder | None:
    """Find the first ResNet in a part; None if there is none."""
    names, _ = translated(tensors)
    common = {names[key]: value for key, value in tensors.items()}
    if not (trunks := trunks_in(common)):
        return None
    trunk = trunks[0]
    own = {key: name for key in common if (name := trunk.own_name(key)) is not None}
    found = {name: common[key] for key, name in own.items()}
    rest = {key: value for key, value in common.items() if key not in own}
    original = {key: own[name] for key, name in names.items() if name in own}
    whole = joined(trunk.path, "layer1") in trunk.modules
    return Encoder(found, rest, original, joined(trunk.path, "fc") if whole else None)


def other_encoder(parts: Sequence[Mapping[str, Tensor]]) -> str | None:
    """Name the encoder in the parts if it is known and no ResNet."""
    keys = [key for part in parts for key in part]
    if any(value.dim() == 5 for part in parts for value in part.values()):
        return "a video network (3-D convolutions)"
    return next((name for hallmark, name in _OTHERS.items() if any(hallmark in key for key in keys)), None)
