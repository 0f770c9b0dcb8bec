"""What a bare state_dict says of itself: a ResNet's configuration and name; strict loading.

Everything is read from key names and shapes; nothing is guessed, and a wrong guess by the caller
is answered with the full list of differences.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from resonnx_export.networks.resnet import ARCHITECTURES, Bottleneck, ResNetConfig

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_LISTED = 8


class CheckpointMismatch(ValueError):
    """A state_dict does not fit a network.

    Attributes:
        missing: Keys that the network needs and the state_dict lacks.
        unexpected: Keys that the state_dict has and the network does not know.
        wrong_shapes: Key -> (shape that the network expects, shape found).
    """

    def __init__(
        self,
        reason: str,
        missing: list[str] | None = None,
        unexpected: list[str] | None = None,
        wrong_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    ) -> None:
        self.missing = missing or []
        self.unexpected = unexpected or []
        self.wrong_shapes = wrong_shapes or {}
        parts = [reason]
        if self.missing:
            parts.append(_listing("missing", self.missing))
        if self.unexpected:
            parts.append(_listing("unexpected", self.unexpected))
        if self.wrong_shapes:
            shapes = [
                f"{key} (expected {list(expected)}, found {list(found)})"
                for key, (expected, found) in self.wrong_shapes.items()
            ]
            parts.append(_listing("wrong shape", shapes))
        super().__init__("; ".join(parts))


def _listing(title: str, items: list[str]) -> str:
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{title}: {', '.join(items[:_LISTED])}{more}"


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy a state_dict into `module`, in the module's dtypes, or change nothing and say why.

    `num_batches_tracked` may be absent: files from before PyTorch 0.4.1 lack it, and it has no
    part in inference.

    Raises:
        CheckpointMismatch: With every missing and unexpected key and every wrong shape.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state_dict and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state_dict if k not in own and not k.endswith("num_batches_tracked")]
    wrong_shapes = {
        key: (tuple(own[key].shape), tuple(value.shape))
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    }
    if missing or unexpected or wrong_shapes:
        reason = f"the checkpoint does not fit {type(module).__name__}"
        raise CheckpointMismatch(reason, missing, unexpected, wrong_shapes)
    module.load_state_dict({k: v for k, v in state_dict.items() if k in own}, strict=False)


def resnet_config_from_state_dict(state_dict: Mapping[str, Tensor]) -> ResNetConfig:
    """Read a ResNet's configuration from torchvision-style keys and their shapes.

    A state_dict without `fc.weight` is a trunk: `num_classes` 0.

    Raises:
        CheckpointMismatch: If a key is missing without which the shape cannot be known.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in state_dict:
            raise CheckpointMismatch("not a ResNet in torchvision's layout", missing=[key])
        return tuple(state_dict[key].shape)

    stem_channels, in_channels, kernel, *_ = shape("conv1.weight")
    width = shape("layer1.0.conv1.weight")[0]
    block: Literal["basic", "bottleneck"] = "basic"
    planes, groups, width_per_group = width, 1, 64
    if "layer1.0.conv3.weight" in state_dict:
        block = "bottleneck"
        planes = shape("layer1.0.conv3.weight")[0] // Bottleneck.expansion
        groups = width // shape("layer1.0.conv2.weight")[1]
        width_per_group = width // groups * 64 // planes
    if stem_channels != planes:
        reason = f"the stem has {stem_channels} channels, the first stage {planes}"
        raise CheckpointMismatch(reason)
    return ResNetConfig(
        block=block,
        layers=_count_blocks(state_dict),
        groups=groups,
        width_per_group=width_per_group,
        planes=planes,
        num_classes=shape("fc.weight")[0] if "fc.weight" in state_dict else 0,
        stem="small" if kernel == 3 else "imagenet",
        in_channels=in_channels,
    )


def _count_blocks(state_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
    last: dict[int, int] = {}
    for key in state_dict:
        if match := _BLOCK.match(key):
            stage, block = int(match[1]), int(match[2])
            last[stage] = max(last.get(stage, 0), block)
    if sorted(last) != list(range(1, len(last) + 1)):
        raise CheckpointMismatch(f"stages are not numbered from 1 without gaps: {sorted(last)}")
    return tuple(last[stage] + 1 for stage in sorted(last))


def architecture_name(config: ResNetConfig) -> str:
    """Return "resnet50" and the like, or a descriptive name where no published one fits."""
    for name, known in ARCHITECTURES.items():
        comparable = replace(known, num_classes=config.num_classes, in_channels=config.in_channels)
        if comparable == config:
            return name
    name = f"resnet_{config.block}_{'_'.join(map(str, config.layers))}_w{config.planes}"
    if config.groups != 1 or config.width_per_group != 64:
        name += f"_{config.groups}x{config.width_per_group}d"
    return name + ("_small" if config.stem == "small" else "")
