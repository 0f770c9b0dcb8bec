"""Finds the recurrent layers over a clip's frames: stacked, in one module or several, one- or bidirectional."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from resonnx_export.layouts.captioners.recurrent import cell_kind
from resonnx_export.networks.cells import Kind
from resonnx_export.networks.detect import CheckpointMismatch, matrix_shape

# "lstm.weight_ih_l1_reverse" of nn.LSTM and the like, "cell.weight_ih" of a cell.
_TENSOR: Final = re.compile(
    r"(?:(?P<module>.*)\.)?(?P<tensor>(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<layer>\d{1,3}))?(?P<reverse>_reverse)?"
)
_MAX_LAYERS: Final = 64


@dataclass(frozen=True)
class RecurrentLayers:
    """The recurrent layers of a network, the first one first.

    Attributes:
        kind: Of all cells.
        inputs: Of the first layer.
        hidden: H of each layer, in one direction.
        bidirectional: Whether each layer has a backward direction.
        bias: Whether they add biases.
        tensors: By the keys of networks/sequence.py, "cells.0.weight_ih_l0".
        rest: All others of the state_dict.
        modules: The modules' names.
    """

    kind: Kind
    inputs: int
    hidden: tuple[int, ...]
    bidirectional: bool
    bias: bool
    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    modules: tuple[str, ...]

    @property
    def width(self) -> int:
        """Size of the last layer's output of a frame."""
        return self.hidden[-1] * (2 if self.bidirectional else 1)

    @property
    def may_add_inputs(self) -> bool:
        """Whether there are several modules, of one width: skip connections are possible between them."""
        return len(self.modules) > 1 and len(set(self.hidden)) == 1


def find_layers(tensors: Mapping[str, Tensor]) -> RecurrentLayers | None:
    """Find the recurrent layers of a network by the names that PyTorch's modules give their tensors; None without any.

    Raises:
        CheckpointMismatch: Layers are of several kinds or do not follow one another, or have projections.
    """
    layers: dict[tuple[str, int], dict[str, Tensor]] = {}
    rest = {}
    for key, value in tensors.items():
        if (match := _TENSOR.fullmatch(key)) is None:
            rest[key] = value
        elif match["tensor"] == "weight_hr":
            raise CheckpointMismatch(f"{key}: an LSTM with projections (proj_size) is not exported")
        else:
            name = f"{match['tensor']}_l0{match['reverse'] or ''}"
            layers.setdefault((match["module"] or "", int(match["layer"] or 0)), {})[name] = value
    if not layers:
        return None
    if len(layers) > _MAX_LAYERS:
        raise CheckpointMismatch(f"{len(layers)} recurrent layers were found; at most {_MAX_LAYERS} are read")
    modules = tuple(dict.fromkeys(module for module, _ in layers))
    ordered = sorted(layers, key=lambda layer: (modules.index(layer[0]), layer[1]))
    return _stacked([(_place(*each), layers[each]) for each in ordered], rest, modules)


def _place(module: str, layer: int) -> str:
    return f"layer {layer} of {module or 'the file'}"


def _stacked(
    layers: list[tuple[str, dict[str, Tensor]]], rest: Mapping[str, Tensor], modules: tuple[str, ...]
) -> RecurrentLayers:
    found: dict[str, Tensor] = {}
    kinds, hidden = set[Kind](), []
    both, bias = "weight_ih_l0_reverse" in layers[0][1], "bias_ih_l0" in layers[0][1]
    size = inputs = matrix_shape(layers[0][1], "weight_ih_l0")[1]
    for number, (place, own) in enumerate(layers):
        rows, width = matrix_shape(own, "weight_hh_l0")
        kinds.add(cell_kind(rows, width))
        if ("weight_ih_l0_reverse" in own, "bias_ih_l0" in own) != (both, bias):
            raise CheckpointMismatch(f"{place} is bidirectional or has biases, unlike another recurrent layer")
        if (read := matrix_shape(own, "weight_ih_l0")[1]) != size:
            raise CheckpointMismatch(
                f"{place} reads {read} numbers, and what is before it gives {size}: the recurrent layers do not follow "
                "one another"
            )
        hidden.append(width)
        size = width * (2 if both else 1)
        found |= {f"cells.{number}.{name}": value for name, value in own.items()}
    if len(kinds) > 1:
        raise CheckpointMismatch(f"recurrent layers of several kinds ({', '.join(sorted(kinds))}) are not exported")
    return RecurrentLayers(kinds.pop(), inputs, tuple(hidden), both, bias, found, rest, modules)
