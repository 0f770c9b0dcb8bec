"""Recognises the layout of a classifier's state_dict from keys and shapes, and builds the network.

Each layout's keys are renamed to torchvision's; networks/detect.py reads the rest from the shapes. A new layout is one
more entry of _LAYOUTS.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import torch
from torch import Tensor

from resonnx_export.assumptions.reading import NOTHING, Assumed, assumptions_of, with_values
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint, loaded
from resonnx_export.networks.detect import CheckpointMismatch, check_fits
from resonnx_export.networks.detect import resnet_config_from_state_dict as read_config
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig

# Prefixes from DataParallel, torch.compile and wrapping modules; removed if the keys stay distinct.
_PREFIXES: Final = ("module.", "_orig_mod.", "model.", "backbone.")
_MAX_WRAPPERS: Final = 8
# The counter of torch.optim.swa_utils.AveragedModel.
_NOT_WEIGHTS: Final = ("n_averaged",)
_NEAREST: Final = 3

_HF_STEM: Final = re.compile(r"(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+)")
_HF_LAYER: Final = re.compile(
    r"(?:resnet\.)?encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)\.(\w+)"
)
_CIFAR_SHORTCUT: Final = re.compile(r"(layer\d+\.\d+)\.shortcut\.(.+)")


def _from_hugging_face(key: str) -> str:
    if match := _HF_STEM.fullmatch(key):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    if match := _HF_LAYER.fullmatch(key):
        stage, block, layer, kind, rest = match.groups()
        part = ("conv" if kind == "convolution" else "bn") + str(int(layer or 0) + 1)
        if layer is None:
            part = f"downsample.{0 if kind == 'convolution' else 1}"
        return f"layer{int(stage) + 1}.{block}.{part}.{rest}"
    return f"fc.{key.removeprefix('classifier.1.')}" if key.startswith("classifier.1.") else key


def _from_cifar(key: str) -> str:
    if match := _CIFAR_SHORTCUT.fullmatch(key):
        return f"{match[1]}.downsample.{match[2]}"
    return f"fc.{key.removeprefix('linear.')}" if key.startswith("linear.") else key


@dataclass(frozen=True)
class _Layout:
    # The layout's name, which may depend on the network.
    name: Callable[[ResNetConfig], str]
    # A key of every state_dict of this layout, and of none of the layouts after it.
    hallmark: re.Pattern[str]
    rename: Callable[[str], str]


def _torchvision_or_timm(config: ResNetConfig) -> str:
    plain = config.stem != "deep" and config.shortcut != "average" and config.gate == "none"
    return "torchvision" if plain else "timm"


_LAYOUTS: Final = (
    _Layout(
        lambda _: "hugging-face",
        re.compile(r"(?:resnet\.)?embedder\.embedder\.convolution\.weight"),
        _from_hugging_face,
    ),
    _Layout(
        lambda config: "cifar-akamaster" if len(config.layers) == 3 else "cifar-kuangliu",
        re.compile(r"linear\.weight"),
        _from_cifar,
    ),
    _Layout(_torchvision_or_timm, re.compile(r"layer1\.0\.conv1\.weight"), lambda key: key),
)


def recognise_classifier(
    state_dict: Mapping[str, Tensor], *, assume: Assumed = NOTHING, stride_in_1x1: bool = False
) -> RecognisedCheckpoint:
    """Build and load the ResNet of a state_dict of any known layout, with or without wrappers' prefixes.

    Args:
        state_dict: Tensors by name.
        assume: Values of properties that keys and shapes do not record, by name, as assumptions/axes.py has them.
        stride_in_1x1: As "1x1" for the property "stride-in".

    Raises:
        BadInput: No layout is recognised, or keys or shapes do not fit; the message lists keys, shapes expected and
            found, and the nearest networks. Or the network has no such property or value; it lists those that exist.
    """
    state_dict = _unwrapped(state_dict)
    if recurrent := next((key for key in state_dict if "weight_ih" in key), None):
        raise BadInput(f"the checkpoint is a captioner or a part of one (it has {recurrent}), not a classifier")
    layout = next((each for each in _LAYOUTS if any(map(each.hallmark.fullmatch, state_dict))), None)
    if layout is None:
        first = ", ".join(list(state_dict)[:4])
        raise BadInput(f"no known layout: {len(state_dict)} keys, the first {first}; {_nearest(state_dict)}")
    try:
        renamed = _renamed(state_dict, layout)
        config = read_config(renamed)
        if stride_in_1x1:
            if config.block == "basic":
                raise BadInput("--stride-in-1x1 is for bottleneck blocks; this network has basic blocks")
            if assume.get("stride-in", "1x1") != "1x1":
                raise BadInput(f"--stride-in-1x1 contradicts --assume stride-in={assume['stride-in']}; give one")
            assume = {**assume, "stride-in": "1x1"}
        config = with_values(config, assume)
        recognised = loaded(layout.name(config), _built(config, renamed), renamed)
    except CheckpointMismatch as error:
        raise BadInput(f"{error} (keys as torchvision has them); {_nearest(state_dict)}") from None
    grey = "the network takes grey pictures: the graph turns RGB into grey as Pillow's convert('L') does"
    notes = (grey,) if config.in_channels == 1 else ()
    return replace(recognised, notes=notes, assumptions=assumptions_of(config, recognised.layout, assume))


def _unwrapped(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    state_dict = {key: value for key, value in state_dict.items() if key not in _NOT_WEIGHTS}
    for _ in range(_MAX_WRAPPERS):
        stripped = state_dict
        for prefix in _PREFIXES:
            shorter = {key.removeprefix(prefix): value for key, value in stripped.items()}
            if len(shorter) == len(stripped):
                stripped = shorter
        if stripped.keys() == state_dict.keys():
            break
        state_dict = stripped
    return state_dict


def _renamed(state_dict: Mapping[str, Tensor], layout: _Layout) -> dict[str, Tensor]:
    renamed = {layout.rename(key): value for key, value in state_dict.items()}
    if len(renamed) < len(state_dict):
        raise CheckpointMismatch("keys of two layouts stand for the same tensors")
    return renamed


def _built(config: ResNetConfig, state_dict: Mapping[str, Tensor]) -> ResNet:
    """Build the network after checking the shapes, which may be of any size."""
    try:
        with torch.device("meta"):
            network = ResNet(config)
    except (RuntimeError, ValueError):
        raise CheckpointMismatch("the shapes do not belong together") from None
    check_fits(network, state_dict)
    network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        # The file may lack it.
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return network


def _nearest(state_dict: Mapping[str, Tensor]) -> str:
    """Name the published networks and layouts that differ by the fewest keys."""
    differences: dict[str, tuple[int, int]] = {}
    for layout in _LAYOUTS:
        renamed = [layout.rename(key) for key in state_dict]
        if layout is not _LAYOUTS[-1] and renamed == list(state_dict):
            # No key is of this layout; the last layout has torchvision's keys.
            continue
        keys = {key for key in renamed if not key.endswith("num_batches_tracked")}
        for name, config in ARCHITECTURES.items():
            own = _keys(config)
            differences[f"{layout.name(config)} {name}"] = len(own - keys), len(keys - own)
    nearest = sorted(differences.items(), key=lambda entry: sum(entry[1]))[:_NEAREST]
    return "nearest: " + ", ".join(
        f"{title} ({missing} missing, {unexpected} unexpected)" for title, (missing, unexpected) in nearest
    )


@cache
def _keys(config: ResNetConfig) -> frozenset[str]:
    with torch.device("meta"):
        keys = ResNet(config).state_dict()
    return frozenset(key for key in keys if not key.endswith("num_batches_tracked"))
