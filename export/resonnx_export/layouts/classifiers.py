"""Recognises a classifier's state_dict from keys and shapes, under any names of modules, and builds the network.

The trunk's tensors are renamed to torchvision's, with those of a head beside it; networks/detect.py reads the rest from
the shapes.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from resonnx_export.assumptions.modules import told_by_modules
from resonnx_export.assumptions.reading import NOTHING, Assumed, assumptions_of, with_values
from resonnx_export.checkpoints.containers import averaged_part
from resonnx_export.errors import BadInput
from resonnx_export.layouts import left_out
from resonnx_export.layouts.families import OtherNetwork, command, refuse_other_networks
from resonnx_export.layouts.heads import Head, Layer, head_of, layers_in, with_head
from resonnx_export.layouts.names import CADENE, HUGGING_FACE, below, translated, unwrapped
from resonnx_export.layouts.recognised import RecognisedCheckpoint, loaded
from resonnx_export.layouts.trunks import Trunk, trunks_in
from resonnx_export.networks.detect import CheckpointMismatch, check_fits
from resonnx_export.networks.detect import resnet_config_from_state_dict as read_config
from resonnx_export.networks.naming import described
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig
from resonnx_export.networks.unrecorded import CAFFE

_NEAREST: Final = 3
_LISTED: Final = 6


class _Parts(NamedTuple):
    # The trunk's tensors, by torchvision's names.
    trunk: Mapping[str, Tensor]
    # All others.
    rest: Mapping[str, Tensor]


def recognise_classifier(
    state_dict: Mapping[str, Tensor],
    *,
    assume: Assumed = NOTHING,
    stride_in_1x1: bool = False,
    modules: Collection[str] = (),
) -> RecognisedCheckpoint:
    """Build and load the ResNet of a state_dict, under whatever names its modules have.

    Args:
        state_dict: Tensors by name.
        assume: Values of properties that keys and shapes do not record, by name, as assumptions/axes.py has them.
        stride_in_1x1: As "1x1" for the property "stride-in".
        modules: The names of the network's modules, where they are known; they tell some of these properties.

    Raises:
        BadInput: No ResNet is found, or several, or tensors are left that belong to no part of one; the message lists
            keys, shapes expected and found, and the nearest networks. Or the network has no such property or value; it
            lists those that exist.
    """
    if recurrent := next((key for key in state_dict if "weight_ih" in key), None):
        raise BadInput(f"the checkpoint is a captioner or a part of one (it has {recurrent}), not a classifier")
    refuse_other_networks(state_dict)
    common, dialect = translated(named := unwrapped(state_dict))
    named = {common[key]: value for key, value in named.items()}
    trunk, named, notes = _one_trunk(named)
    parts = _split(named, trunk)
    try:
        config = read_config(parts.trunk)
        if dialect == CADENE:
            config = _as_cadenes(config)
        if dialect == HUGGING_FACE:
            config = replace(config, unrecorded=replace(config.unrecorded, inner_activation="relu"))
        dropped = {key: value for key, value in parts.rest.items() if left_out.is_left_out(key, value)}
        head = _head({key: value for key, value in parts.rest.items() if key not in dropped}, config, trunk)
        state = dict(parts.trunk)
        if head is not None:
            config = with_head(config, head)
            state |= head.state_dict()
        if stride_in_1x1:
            assume = _with_stride_in_1x1(config, assume)
        told = told_by_modules(modules, pools=config.stem != "small")
        assume = {**told.values, **assume}
        config = with_values(config, assume)
        layout = _layout(dialect, config, head)
        if told.timm and layout == "torchvision":
            layout = "timm"
        recognised = loaded(layout, _built(config, state), state)
    except CheckpointMismatch as error:
        raise BadInput(f"{error}{_nearest(parts.trunk) if error.missing else ''}") from None
    grey = "the network takes grey pictures: the graph turns RGB into grey as Pillow's convert('L') does"
    notes += (grey,) if config.in_channels == 1 else ()
    notes += (*left_out.told(dropped), *(told.notes if "pool" not in assume else ()))
    assumptions = assumptions_of(config, layout, assume)
    found = described(config) + _place(trunk, head)
    return replace(recognised, notes=notes, assumptions=assumptions, dtypes=_dtypes(named), found=found)


def _as_cadenes(config: ResNetConfig) -> ResNetConfig:
    if config.block == "basic":
        raise BadInput(
            "SE blocks of two convolutions under Cadene's names (timm's legacy_seresnet18 and 34) have one more ReLU, "
            "before the gate: not one of our networks; resonnx-export module exports your own code, or timm:NAME"
        )
    return replace(config, unrecorded=replace(CAFFE, stride_in_1x1=config.groups == 1))


def _with_stride_in_1x1(config: ResNetConfig, assume: Assumed) -> Assumed:
    if config.block == "basic":
        raise BadInput("--stride-in-1x1 is for bottleneck blocks; this network has basic blocks")
    if assume.get("stride-in", "1x1") != "1x1":
        raise BadInput(f"--stride-in-1x1 contradicts --assume stride-in={assume['stride-in']}; give one")
    return {**assume, "stride-in": "1x1"}


def _one_trunk(named: Mapping[str, Tensor]) -> tuple[Trunk, Mapping[str, Tensor], tuple[str, ...]]:
    """Return the only ResNet, the tensors beside it, and notes."""
    trunks = trunks_in(named)
    if not trunks:
        first = ", ".join(list(named)[:4])
        raise OtherNetwork(
            f"no known layout: {len(named)} keys, the first {first}; no ResNet was found in them; export another "
            f"network with its own class: {command('')}"
        )
    notes: tuple[str, ...] = ()
    averaged = {trunk.path: path for trunk in trunks if (path := averaged_part(trunk.path))}
    if len(trunks) > 1 and len(averaged) == len(trunks) - 1:
        named = {key: value for key, value in named.items() if not any(below(part, key) for part in averaged.values())}
        notes = (f"an average of the weights ({', '.join(averaged.values())}) is left out; --weights chooses it",)
        trunks = [trunk for trunk in trunks if trunk.path not in averaged]
    if len(trunks) > 1:
        listed = ", ".join(f"under {trunk.path!r}" for trunk in trunks[:_LISTED])
        raise BadInput(f"{len(trunks)} ResNets were found, {listed}: choose one with --weights NAME")
    return trunks[0], named, notes


def _split(named: Mapping[str, Tensor], trunk: Trunk) -> _Parts:
    own: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in named.items():
        name = trunk.own_name(key)
        if name is None:
            rest[key] = value
        elif name in own:
            raise BadInput(f"{key} and another key stand for the same tensor of a ResNet, {name}")
        else:
            own[name] = value
    return _Parts(_without_biases(own), rest)


def _without_biases(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the biases of convolutions off the means of the normalisations that follow, which is the same."""
    for key in [key for key in own if re.search(r"(?:conv\d(?:\.\d)?|downsample\.[01])\.bias$", key)]:
        convolution = key.removesuffix(".bias")
        if own[key].ndim != 1 or own.get(f"{convolution}.weight", own[key]).ndim != 4:
            continue
        mean = own.get(f"{_following_norm(convolution)}.running_mean")
        if mean is not None and mean.shape == own[key].shape:
            own[f"{_following_norm(convolution)}.running_mean"] = mean.float() - own.pop(key).float()
    return own


def _following_norm(convolution: str) -> str:
    parent, _, last = convolution.rpartition(".")
    if not last.isdecimal():
        return f"{parent}.{last.replace('conv', 'bn')}" if parent else last.replace("conv", "bn")
    return "bn1" if convolution == "conv1.6" else f"{parent}.{int(last) + 1}"


def _head(rest: Mapping[str, Tensor], config: ResNetConfig, trunk: Trunk) -> Head | None:
    """Return the head; None if the trunk is all there is."""
    layers = layers_in(rest)
    known = {f"{layer.name}.{name}" for layer in layers for name in layer.tensors}
    width = config.map_channels
    head = head_of(layers, width, trunk.path) or head_of(layers, 2 * width, trunk.path)
    if head is None:
        heads = _linear_of(layers, width)
        left_out.refuse_the_rest(key for key in rest if not heads or not below(heads[0].name, key))
    left_out.refuse_the_rest(key for key in rest if key not in known)
    return head


def _linear_of(layers: Sequence[Layer], width: int) -> list[Layer]:
    """Return the linear layers that take the trunk's channels, at most one.

    Raises CheckpointMismatch if there are several, or one takes the channels of several positions.
    """
    linear = [layer for layer in layers if layer.kind == "linear"]
    heads = [layer for layer in linear if layer.inputs == width]
    if len(heads) > 1:
        listed = ", ".join(f"{layer.name} ({layer.outputs} outputs)" for layer in heads[:_LISTED])
        what = "a model has one; resonnx-export module exports your own code with one of them"
        raise CheckpointMismatch(f"{len(heads)} heads were found, {listed}: {what}")
    if linear and not heads and linear[0].inputs % width == 0:
        times = f"{linear[0].inputs // width} times the trunk's {width} channels"
        raise CheckpointMismatch(f"the head {linear[0].name} takes {linear[0].inputs} numbers, {times}")
    return heads


def _layout(dialect: str, config: ResNetConfig, head: Head | None) -> str:
    if dialect:
        return dialect
    if head is not None and head.name == "linear" and config.stem == "small":
        return "cifar-akamaster" if len(config.layers) == 3 else "cifar-kuangliu"
    plain = config.stem != "deep" and config.shortcut != "average" and config.gate == "none"
    return "torchvision" if plain else "timm"


def _place(trunk: Trunk, head: Head | None) -> str:
    place = f" under `{trunk.path}.`" if trunk.path else ""
    if head is None:
        return f"{place}, without a head"
    usual = head.name in ("fc", "linear", f"{trunk.path}.fc")
    return place if usual else f"{place}, with the head `{head.name}`"


def _dtypes(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(sorted({str(v.dtype).removeprefix("torch.") for v in named.values() if v.is_floating_point()}))


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


def _nearest(trunk: Mapping[str, Tensor]) -> str:
    """Name the published networks that differ by the fewest keys."""
    keys = {key for key in trunk if not key.endswith("num_batches_tracked")}
    differences = {
        name: (len(own - keys), len(keys - own)) for name, config in ARCHITECTURES.items() for own in [_keys(config)]
    }
    near = {name: counts for name, counts in differences.items() if 2 * sum(counts) <= len(keys)}
    if not near:
        return " (keys as torchvision has them)"
    nearest = sorted(near.items(), key=lambda entry: sum(entry[1]))[:_NEAREST]
    listed = (f"{name} ({missing} missing, {unexpected} unexpected)" for name, (missing, unexpected) in nearest)
    return f" (keys as torchvision has them); nearest: {', '.join(listed)}"


@cache
def _keys(config: ResNetConfig) -> frozenset[str]:
    with torch.device("meta"):
        keys = ResNet(config).state_dict()
    return frozenset(key for key in keys if not key.endswith("num_batches_tracked") and not key.startswith("fc."))
