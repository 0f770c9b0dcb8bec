"""The table of properties of a ResNet that its file does not record: their names, values, and where they apply."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from resonnx_export.networks.heads import activation_places
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.networks.unrecorded import AntiAliasing, StemPool, make_activation

_ACTIVATIONS: Final = ("relu", "silu", "gelu", "leaky_relu", "elu", "hardswish", "mish", "relu6")
_HEAD_ACTIVATIONS: Final = ("relu", "none", "tanh", "leaky_relu", "leaky_relu:0.2", "gelu", "silu", "elu")
_EPSILONS: Final = ("1e-05", "0.001", "1e-06")
_DILATED: Final = re.compile(r"layer(\d)(?:-(\d))?")
_GREATEST_STRIDE: Final = 4


@dataclass(frozen=True)
class Axis:
    """One property.

    Attributes:
        name: As `--assume` takes it.
        field: The field of Unrecorded.
        values: The values to list for a network, the usual one first; none if the network has no such property.
        read: The value of a network.
        parse: Turns text into the field's value, or raises ValueError; None if the listed values are all, and are the
            field's.
        told: Whether the property is listed for a network of a layout; if not, it can be set all the same.
        form: What the property takes beside the listed values.
        option: The option that changes it.
    """

    name: str
    field: str
    values: Callable[[ResNetConfig], tuple[str, ...]]
    read: Callable[[ResNetConfig], str]
    parse: Callable[[str, ResNetConfig], Any] | None = None
    told: Callable[[ResNetConfig, str], bool] = lambda config, layout: True
    form: str = ""
    option: str = ""

    def changed(self, config: ResNetConfig, text: str) -> ResNetConfig:
        """Return the network with another value. Raises ValueError, with the values that exist, if it has no such."""
        listed = self.values(config)
        try:
            if self.parse is None and text not in listed:
                raise ValueError
            value = self.parse(text, config) if self.parse else text
        except ValueError:
            known = ", ".join(filter(None, (*listed, self.form)))
            raise ValueError(f"{self.name} takes {known}, not {text!r}") from None
        field: dict[str, Any] = {self.field: value}
        return replace(config, unrecorded=replace(config.unrecorded, **field))


def _always(*values: str) -> Callable[[ResNetConfig], tuple[str, ...]]:
    return lambda config: values


def _of(field: str) -> Callable[[ResNetConfig], str]:
    return lambda config: str(getattr(config.unrecorded, field))


def _activation(text: str, config: ResNetConfig) -> str:
    make_activation(text)
    return text


def _positive(text: str, config: ResNetConfig) -> float:
    if not 0 < float(text) < 1:
        raise ValueError
    return float(text)


def _stride(text: str, config: ResNetConfig) -> int:
    if not 1 <= int(text) <= _GREATEST_STRIDE:
        raise ValueError
    return int(text)


def _in_1x1(text: str, config: ResNetConfig) -> bool:
    if text not in ("3x3", "1x1"):
        raise ValueError
    return text == "1x1"


def _strides(text: str, config: ResNetConfig) -> tuple[int, ...]:
    found = tuple(_stride(part, config) for part in text.split("-"))
    # A first stage of basic blocks that strides has a convolution in its shortcut.
    if len(found) != len(config.layers) or (config.block == "basic" and (found[0] != 1) != (config.strides[0] != 1)):
        raise ValueError
    return found


def _stride_values(config: ResNetConfig) -> tuple[str, ...]:
    others = "-2" * (len(config.layers) - 1)
    values = [f"1{others}", f"1{others[:-1]}1"] if others else ["1"]
    if config.block == "bottleneck":
        return (*values, f"2{others}")
    return tuple(values) if config.strides[0] == 1 else (f"2{others}",)


def _dilation_values(config: ResNetConfig) -> tuple[str, ...]:
    last = len(config.layers)
    if last < 3:
        return ()
    return "none", f"layer{last}", f"layer{last - 1}-{last}"


def _dilated(text: str, config: ResNetConfig) -> int:
    if text == "none":
        return 0
    match = _DILATED.fullmatch(text)
    if match is None or int(match[2] or match[1]) != len(config.layers) or not 2 <= int(match[1]) <= len(config.layers):
        raise ValueError
    return len(config.layers) - int(match[1]) + 1


def _read_dilation(config: ResNetConfig) -> str:
    last, count = len(config.layers), config.unrecorded.dilated
    if count == 0:
        return "none"
    return f"layer{last}" if count == 1 else f"layer{last - count + 1}-{last}"


def _pools(config: ResNetConfig) -> tuple[str, ...]:
    names: tuple[str, ...] = get_args(StemPool)
    return ("none", *(name for name in names if name != "none")) if config.stem == "small" else names


def _global_pools(config: ResNetConfig) -> tuple[str, ...]:
    joined = config.unrecorded.global_pool.startswith("cat")
    return ("cat-avg-max", "cat-max-avg") if joined else ("avg", "max", "avgmax")


def _own_code(config: ResNetConfig, layout: str) -> bool:
    # Hugging Face's class has its stem and its pools fixed.
    return layout != "hugging-face"


def _large(config: ResNetConfig, layout: str) -> bool:
    return _own_code(config, layout) and config.stem != "small"


# In the order of the network.
AXES: Final = (
    Axis("activation", "activation", _always(*_ACTIVATIONS), _of("activation"), _activation, form="leaky_relu:SLOPE"),
    # transformers' hidden_act leaves the activations between a block's convolutions ReLU.
    Axis(
        "inner-activation",
        "inner_activation",
        _always(*_ACTIVATIONS),
        lambda config: config.unrecorded.inner_activation or config.unrecorded.activation,
        _activation,
        told=lambda config, layout: layout == "hugging-face" and config.unrecorded.activation != "relu",
        form="leaky_relu:SLOPE",
    ),
    Axis(
        "bn-eps",
        "bn_eps",
        _always(*_EPSILONS),
        lambda config: f"{config.unrecorded.bn_eps:g}",
        _positive,
        told=_own_code,
        form="any number above 0 and below 1",
    ),
    Axis(
        "stem-stride",
        "stem_stride",
        lambda config: ("1", "2") if config.stem == "small" else ("2", "1"),
        lambda config: str(config.stem_stride),
        _stride,
        told=_own_code,
    ),
    Axis("pool", "pool", _pools, lambda config: config.stem_pool, told=_own_code),
    Axis(
        "stride-in",
        "stride_in_1x1",
        lambda config: ("3x3", "1x1") if config.block == "bottleneck" else (),
        lambda config: "1x1" if config.unrecorded.stride_in_1x1 else "3x3",
        _in_1x1,
        told=lambda config, layout: layout != "timm",
        option="--stride-in-1x1",
    ),
    Axis(
        "strides",
        "strides",
        _stride_values,
        lambda config: "-".join(map(str, config.strides)),
        _strides,
        form="the stride of each stage",
    ),
    Axis("dilation", "dilated", _dilation_values, _read_dilation, _dilated, told=_large),
    Axis("anti-aliasing", "anti_aliasing", _always(*get_args(AntiAliasing)), _of("anti_aliasing"), told=_large),
    Axis(
        "padded-channels",
        "padded_channels",
        lambda config: ("both", "end") if config.shortcut == "pad" else (),
        _of("padded_channels"),
    ),
    Axis(
        "padded-pool",
        "padded_pool",
        lambda config: ("every-second", "avg") if config.shortcut == "pad" else (),
        _of("padded_pool"),
    ),
    Axis(
        "gate",
        "gate",
        lambda config: () if config.gate == "none" else ("sigmoid", "hard-sigmoid"),
        _of("gate"),
    ),
    Axis(
        "gate-activation",
        "gate_activation",
        lambda config: _ACTIVATIONS if config.gate == "se" else (),
        _of("gate_activation"),
        _activation,
    ),
    Axis("global-pool", "global_pool", _global_pools, _of("global_pool"), told=_own_code),
    Axis(
        "head-activation",
        "head_activation",
        lambda config: _HEAD_ACTIVATIONS if activation_places(config.head) else (),
        _of("head_activation"),
        _activation,
        form="leaky_relu:SLOPE",
    ),
)
BY_NAME: Final[Mapping[str, Axis]] = {axis.name: axis for axis in AXES}
