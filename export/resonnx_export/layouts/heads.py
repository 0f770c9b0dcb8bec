"""Finds a classifier's head among the modules beside its trunk: layers that follow one another by their shapes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

from torch import Tensor

from resonnx_export.layouts.names import modules_of
from resonnx_export.networks.heads import HeadLayer
from resonnx_export.networks.resnet import ResNetConfig

# More layers than any head has, and steps of the search.
_MAX_LAYERS: Final = 16
_MAX_STEPS: Final = 10_000
# Indices at which layers are put if their names do not tell whether others are between: one is left free.
_GAP: Final = 2


@dataclass(frozen=True)
class Layer:
    """A module of a head: its name, what it is, and its widths."""

    name: str
    kind: Literal["linear", "norm"]
    inputs: int
    outputs: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Head:
    """A head.

    Attributes:
        layers: In order.
        indices: Theirs for an nn.Sequential.
        whole: The first layer is the own head of a whole ResNet, behind which the others are.
    """

    layers: tuple[Layer, ...]
    indices: tuple[int, ...]
    whole: bool

    @property
    def name(self) -> str:
        """The names of the layers in the file."""
        return ", ".join(layer.name for layer in self.layers)

    @property
    def config(self) -> tuple[HeadLayer, ...]:
        """The layers for a ResNetConfig; empty for one linear layer with a bias."""
        if len(self.layers) == 1 and "bias" in self.layers[0].tensors:
            return ()
        return tuple(
            HeadLayer(index, layer.outputs, layer.kind, "bias" in layer.tensors)
            for index, layer in zip(self.indices, self.layers, strict=True)
        )

    def state_dict(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors with the names of a ResNet's `fc`."""
        for index, layer in zip(self.indices, self.layers, strict=True):
            for name, value in layer.tensors.items():
                yield (f"fc.{index}.{name}" if self.config else f"fc.{name}"), value


def layers_in(state_dict: Mapping[str, Tensor]) -> list[Layer]:
    """Return the modules that may be layers of a head, in the order of the keys."""
    found = []
    for module, names in modules_of(state_dict).items():
        if not module:
            continue
        tensors = {name: state_dict[f"{module}.{name}"] for name in names}
        if (layer := _layer(module, tensors)) is not None:
            found.append(layer)
    return found


def _layer(name: str, tensors: Mapping[str, Tensor]) -> Layer | None:
    names, weight = tensors.keys() - {"num_batches_tracked"}, tensors.get("weight")
    if weight is None:
        return None
    if weight.ndim == 4 and weight.shape[2:] == (1, 1):
        # A 1x1 convolution whose result is averaged is a linear layer.
        weight = weight.flatten(1)
        tensors = {**tensors, "weight": weight}
    if weight.ndim == 2 and names <= {"weight", "bias"}:
        outputs, inputs = weight.shape
        fits = "bias" not in tensors or tensors["bias"].shape == (outputs,)
        return Layer(name, "linear", inputs, outputs, tensors) if fits and inputs and outputs else None
    if weight.ndim == 1 and names == {"weight", "bias", "running_mean", "running_var"}:
        same = len({value.shape for key, value in tensors.items() if key in names}) == 1
        return Layer(name, "norm", len(weight), len(weight), tensors) if same else None
    return None


def head_of(layers: Sequence[Layer], width: int, trunk: str) -> Head | None:
    """Return the head that takes `width` features and has all layers given; None if there is no such order.

    `trunk` is the path of the module that holds the ResNet.
    """
    if not layers or len(layers) > _MAX_LAYERS:
        return None
    order = _chain(layers, width)
    if order is None or all(layer.kind == "norm" for layer in order):
        return None
    return Head(order, tuple(_indices(order, trunk)), whole=len(order) > 1 and _is_own_head(order[0], trunk))


def with_head(config: ResNetConfig, head: Head) -> ResNetConfig:
    """Return a trunk's configuration with a head."""
    first, unrecorded = head.layers[0], config.unrecorded
    if first.inputs == 2 * config.map_channels:
        # fastai has the maximum before the average, and BatchNorm after both; timm the average first.
        unrecorded = replace(unrecorded, global_pool="cat-max-avg" if first.kind == "norm" else "cat-avg-max")
    if head.whole:
        unrecorded = replace(unrecorded, head_activation="none")
    return replace(config, num_classes=head.layers[-1].outputs, head=head.config, unrecorded=unrecorded)


def _chain(layers: Sequence[Layer], width: int) -> tuple[Layer, ...] | None:
    """Return the layers in the first order in which each takes what the one before returns."""
    steps = 0
    waiting: list[tuple[tuple[int, ...], int]] = [((), width)]
    while waiting and steps < _MAX_STEPS:
        steps += 1
        taken, inputs = waiting.pop()
        if len(taken) == len(layers):
            return tuple(layers[number] for number in taken)
        waiting += [
            ((*taken, number), layers[number].outputs)
            for number in reversed(range(len(layers)))
            if number not in taken and layers[number].inputs == inputs
        ]
    return None


def _indices(layers: Sequence[Layer], trunk: str) -> Iterator[int]:
    index = 0
    if layers[0].name.rpartition(".")[2].isdecimal() and len(layers) > 1:
        index = min(int(layers[0].name.rpartition(".")[2]), _MAX_LAYERS)
    yield index
    for before, after in pairwise(layers):
        index += _distance(before, after, trunk)
        yield index


def _distance(before: Layer, after: Layer, trunk: str) -> int:
    """Return the difference of two layers' indices: 1 if nothing is between."""
    whole = _is_own_head(before, trunk)
    # A ResNet with its own head stands for that head in an nn.Sequential of the ResNet and more layers.
    first, last = (trunk if whole else before.name).split("."), after.name.split(".")
    while first and last and first[0] == last[0]:
        first, last = first[1:], last[1:]
    if len(first) == len(last) == 1 and first[0].isdecimal() and last[0].isdecimal():
        return max(1, min(int(last[0]) - int(first[0]), _MAX_LAYERS))
    return 1 if after.kind == "norm" else _GAP


def _is_own_head(layer: Layer, trunk: str) -> bool:
    return bool(trunk) and layer.name == f"{trunk}.fc"
