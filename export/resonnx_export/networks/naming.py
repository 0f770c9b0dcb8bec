"""Names ResNets by their configurations: as published, or by their blocks."""

import re
from dataclasses import replace
from typing import Final

from resonnx_export.networks.resnet import ARCHITECTURES, ResNetConfig
from resonnx_export.networks.unrecorded import CAFFE, Unrecorded

_PUBLISHED: Final = re.compile(r"(?P<kind>wide_resnet|resnext|resnet|senet)(?P<depth>\d+)(?P<rest>_2|_\d+x\d+d)?")
_KINDS: Final = {"wide_resnet": "Wide ResNet", "resnext": "ResNeXt", "resnet": "ResNet", "senet": "SENet"}
_GATES: Final = {"none": "", "se": "SE-", "eca": "ECA-"}


def architecture_name(config: ResNetConfig) -> str:
    """Return "resnet50", "seresnext50d_32x4d" and the like, or a descriptive name where no published one fits."""
    name = _published(config) or _published(_plain(config))
    if name is None:
        name = f"resnet_{config.block}_{'_'.join(map(str, config.layers))}_w{config.planes}"
        if config.groups != 1 or config.width_per_group != 64:
            name += f"_{config.groups}x{config.width_per_group}d"
    if _published(config) is None:
        name = re.sub(r"resnex?t\d*", lambda match: match[0] + _letter(config), name, count=1)
        name = {"none": "", "se": "se", "eca": "eca"}[config.gate] + name
        name += "_small" if config.stem == "small" else ""
    if config.unrecorded == CAFFE:
        return f"{name}_caffe"
    return name + ("_stride_in_1x1" if config.unrecorded.stride_in_1x1 else "")


def described(config: ResNetConfig) -> str:
    """Return "a ResNet-50", "an SE-ResNeXt-50d 32x4d" and the like; otherwise the blocks in words, with an article."""
    whole, name = _published(config), _published(_plain(config))
    gate = "" if whole else _GATES[config.gate]
    if match := _PUBLISHED.fullmatch(whole or name or ""):
        letter = "" if whole else _letter(config)
        text = f"{gate}{_KINDS[match['kind']]}-{match['depth']}{letter}{(match['rest'] or '').replace('_', ' ')}"
        parts = ["a 3x3 stem"] if config.stem == "small" and not whole else []
    else:
        text = f"{gate}ResNet with {config.block} blocks {'-'.join(map(str, config.layers))}"
        parts = [f"width {config.planes}", *_variations(config)]
    text = ", ".join([text, *parts])
    article = "an" if text.startswith(("SE-", "SENet", "ECA-")) else "a"
    return f"{article} {text}"


def _variations(config: ResNetConfig) -> list[str]:
    """Return how a network that is not published differs from torchvision's."""
    found = {
        f"{config.groups} groups": config.groups > 1,
        f"{config.width_per_group} channels a group": config.groups > 1 or config.width_per_group != 64,
        "a 3x3 stem": config.stem == "small",
        "a deep stem": config.stem == "deep",
        f"{config.stem_channels} channels in the stem": config.stem_channels is not None,
        "average pools in shortcuts": config.shortcut == "average",
        "shortcuts without weights": config.shortcut == "pad",
    }
    return [text for text, applies in found.items() if applies]


def _letter(config: ResNetConfig) -> str:
    """Return timm's letter: c a deep stem, s a wide one, d an averaging shortcut with it, t with a narrower start."""
    if config.stem != "deep" and config.shortcut != "average":
        return ""
    if config.shortcut != "average":
        return "c" if config.stem_channels is None else "s"
    tiered = config.stem_widths is not None and config.stem_widths[0] != config.stem_widths[1]
    return "t" if tiered else "d"


def _published(config: ResNetConfig) -> str | None:
    shape = replace(config, num_classes=0, in_channels=3, head=(), unrecorded=Unrecorded())
    return next((name for name, known in ARCHITECTURES.items() if replace(known, num_classes=0) == shape), None)


def _plain(config: ResNetConfig) -> ResNetConfig:
    """Return a variant's configuration without its variations."""
    plain = replace(config, stem="imagenet", stem_widths=None, stem_channels=None)
    return replace(plain, shortcut="convolution", gate="none", gate_sizes=())
