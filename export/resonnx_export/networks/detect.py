"""Reads a ResNet's configuration from the keys and shapes of a state_dict, and loads weights strictly."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from resonnx_export.networks.blocks import Bottleneck, Shortcut
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.networks.unrecorded import Unrecorded

_BLOCK = re.compile(r"layer(\d{1,4})\.(\d{1,4})\.")
_LISTED = 8
# Larger than any network: a file may name numbers that would take hours to build.
_MAX_STAGES, _MAX_BLOCKS, _MAX_CHANNELS = 8, 1000, 1 << 16


class CheckpointMismatch(ValueError):
    """A state_dict does not fit a network: missing or unexpected keys, or wrong shapes (key -> expected, found)."""

    def __init__(
        self,
        reason: str,
        missing: list[str] | None = None,
        unexpected: list[str] | None = None,
        wrong_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    ) -> None:
        self.missing, self.unexpected, self.wrong_shapes = missing or [], unexpected or [], wrong_shapes or {}
        shapes = [
            f"{key} (expected {list(expected)}, found {list(found)})"
            for key, (expected, found) in self.wrong_shapes.items()
        ]
        lists = {"missing": self.missing, "unexpected": self.unexpected, "wrong shape": shapes}
        super().__init__("; ".join([reason, *(_listing(title, items) for title, items in lists.items() if items)]))


def _listing(title: str, items: list[str]) -> str:
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{title}: {', '.join(items[:_LISTED])}{more}"


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy a state_dict into `module`, in the module's dtypes.

    `num_batches_tracked` may be absent, as in files from before PyTorch 0.4.1: inference does not use it.

    Raises:
        CheckpointMismatch: Lists every missing and unexpected key and every wrong shape; `module` is unchanged.
    """
    check_fits(module, state_dict)
    own = module.state_dict()
    module.load_state_dict({k: v for k, v in state_dict.items() if k in own}, strict=False)


def check_fits(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Compare keys and shapes; `module` may be on the meta device, where it takes no memory. Raises as load_strict."""
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


def matrix_shape(state_dict: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    """Return a matrix's rows and columns. Raises CheckpointMismatch if it is missing, no matrix, or empty."""
    if key not in state_dict:
        raise CheckpointMismatch("a key of the layout is missing", missing=[key])
    shape = tuple(state_dict[key].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointMismatch(f"{key} has the shape {list(shape)}, expected a non-empty matrix")
    return shape[0], shape[1]


def resnet_config_from_state_dict(state_dict: Mapping[str, Tensor]) -> ResNetConfig:
    """Read a ResNet's configuration from torchvision-style keys and their shapes.

    A state_dict without `fc.weight` is a trunk: `num_classes` 0; other heads are not read. Properties that keys and
    shapes do not record are torchvision's: the stride in the 3x3 convolution, a 3x3 stem without pool.

    Raises:
        CheckpointMismatch: A key is missing without which the shape cannot be known, or a shape is no ResNet's.
    """
    shapes = _Shapes(state_dict)
    stem = _stem(shapes)
    blocks = _blocks(shapes)
    outputs = stem.pop("stem_channels")
    config = replace(blocks, **stem, stem_channels=outputs if outputs != blocks.planes else None)
    firsts = [f"layer{stage}.0." for stage in range(1, len(config.layers) + 1)]
    classes = shapes("fc.weight", 2)[0] if "fc.weight" in state_dict else 0
    return replace(
        config,
        num_classes=classes,
        unrecorded=_strided(config, state_dict),
        shortcut=_shortcut(config, state_dict, firsts),
        shortcut_kernels=_shortcut_kernels(shapes, firsts),
        **_gate(shapes, firsts),
    )


@dataclass(frozen=True)
class _Shapes:
    """The shapes of a state_dict, checked before anything is computed from them."""

    state_dict: Mapping[str, Tensor]

    def __call__(self, key: str, dimensions: int = 4) -> tuple[int, ...]:
        if key not in self.state_dict:
            raise CheckpointMismatch("not a ResNet in torchvision's layout", missing=[key])
        shape = tuple(self.state_dict[key].shape)
        if len(shape) != dimensions or not all(1 <= count <= _MAX_CHANNELS for count in shape):
            raise CheckpointMismatch(f"{key} has the shape {list(shape)}, which no ResNet has")
        return shape


def _blocks(shapes: _Shapes) -> ResNetConfig:
    layers = _count_blocks(shapes.state_dict)
    width = shapes("layer1.0.conv1.weight")[0]
    if "layer1.0.conv3.weight" not in shapes.state_dict:
        return ResNetConfig("basic", layers, planes=width)
    planes = max(1, shapes("layer1.0.conv3.weight")[0] // Bottleneck.expansion)
    outputs, inputs, *_ = shapes("layer1.0.conv2.weight")
    groups = max(1, width // inputs)
    return ResNetConfig(
        "bottleneck",
        layers,
        groups=groups,
        width_per_group=outputs // groups * 64 // planes,
        planes=planes,
        reduction=max(1, outputs // width),
    )


def _stem(shapes: _Shapes) -> dict[str, Any]:
    if "conv1.6.weight" in shapes.state_dict:
        first, in_channels, *_ = shapes("conv1.0.weight")
        outputs, second, *_ = shapes("conv1.6.weight")
        return {
            "stem": "deep",
            "stem_widths": (first, second),
            "stem_channels": outputs,
            "in_channels": in_channels,
        }
    outputs, in_channels, kernel, _ = shapes("conv1.weight")
    return {"stem": "small" if kernel == 3 else "imagenet", "stem_channels": outputs, "in_channels": in_channels}


def _gate(shapes: _Shapes, firsts: Sequence[str]) -> dict[str, Any]:
    if "layer1.0.se.fc1.weight" in shapes.state_dict:
        return {"gate": "se", "gate_sizes": tuple(shapes(f"{first}se.fc1.weight")[0] for first in firsts)}
    if "layer1.0.se.conv.weight" in shapes.state_dict:
        return {"gate": "eca", "gate_sizes": tuple(shapes(f"{first}se.conv.weight", 3)[2] for first in firsts)}
    return {}


def _shortcut(config: ResNetConfig, state_dict: Mapping[str, Tensor], firsts: Sequence[str]) -> Shortcut:
    if any(f"{first}downsample.2.weight" in state_dict for first in firsts):
        return "average"
    # Later stages change the shape. Only ResNets of basic blocks for small pictures were published without weights for
    # that; in others the weights are missing.
    without = not any(f"{first}downsample.0.weight" in state_dict for first in firsts[1:])
    return "pad" if without and config.block == "basic" and config.stem == "small" else "convolution"


def _shortcut_kernels(shapes: _Shapes, firsts: Sequence[str]) -> tuple[int, ...]:
    """Return the kernels of the convolutions in skip connections; empty if all are 1x1."""
    keys = [f"{first}downsample.0.weight" for first in firsts]
    kernels = tuple(shapes(key)[2] if key in shapes.state_dict else 1 for key in keys)
    return kernels if set(kernels) - {1} else ()


def _strided(config: ResNetConfig, state_dict: Mapping[str, Tensor]) -> Unrecorded:
    """Return the usual values; a first stage that keeps the channels has a convolution beside it if it strides."""
    same = config.stem_outputs == config.planes
    strides = config.block == "basic" and same and "layer1.0.downsample.0.weight" in state_dict
    return Unrecorded(strides=(2,) * len(config.layers) if strides else ())


def _count_blocks(state_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for key in state_dict:
        if match := _BLOCK.match(key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    if sorted(blocks) != list(range(1, len(blocks) + 1)) or len(blocks) > _MAX_STAGES:
        raise CheckpointMismatch(f"stages are not numbered 1 to at most {_MAX_STAGES} without gaps: {sorted(blocks)}")
    for stage, numbers in blocks.items():
        if max(numbers) + 1 != len(numbers) or len(numbers) > _MAX_BLOCKS:
            missing = sorted(set(range(len(numbers))) - numbers)
            raise CheckpointMismatch(
                f"layer{stage} is not numbered from 0 without gaps: block {missing[:1]} is missing"
            )
    return tuple(len(blocks[stage]) for stage in sorted(blocks))
