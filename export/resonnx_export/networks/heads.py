"""The head of a classifier: linear layers and normalisations from features to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

from resonnx_export.networks.unrecorded import make_activation


@dataclass(frozen=True)
class HeadLayer:
    """One layer with weights.

    Attributes:
        index: In the nn.Sequential. Indices are ascending; between two that are not neighbours are layers without
            weights.
        outputs: Size of the result.
        kind: A linear layer, or BatchNorm1d.
        bias: Whether a linear layer adds a bias.
    """

    index: int
    outputs: int
    kind: Literal["linear", "norm"] = "linear"
    bias: bool = True


def make_head(inputs: int, layers: Sequence[HeadLayer], activation: str, bn_eps: float) -> nn.Sequential:
    """Return a head with an activation at each of `activation_places`: [N,inputs] -> [N,outputs of the last layer]."""
    # Dropout and other layers without weights do nothing in inference.
    modules: list[nn.Module] = [nn.Identity() for _ in range(layers[-1].index + 1)]
    for place in activation_places(layers):
        modules[place] = make_activation(activation)
    for layer in layers:
        if layer.kind == "linear":
            modules[layer.index] = nn.Linear(inputs, layer.outputs, bias=layer.bias)
        else:
            modules[layer.index] = nn.BatchNorm1d(inputs, eps=bn_eps)
        inputs = layer.outputs
    return nn.Sequential(*modules)


def activation_places(layers: Sequence[HeadLayer]) -> tuple[int, ...]:
    """Return the indices where an activation may be: the first free one between two linear layers."""
    linear = [number for number, layer in enumerate(layers) if layer.kind == "linear"]
    places = []
    for first, last in pairwise(linear):
        taken = {layer.index for layer in layers[first : last + 1]}
        free = (index for index in range(layers[first].index, layers[last].index) if index not in taken)
        places += [place] if (place := next(free, None)) is not None else []
    return tuple(places)
