"""Finds the recurrent cells of a decoder, and renames their tensors to StackedCells' keys."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from resonnx_export.networks.cells import Kind
from resonnx_export.networks.detect import CheckpointMismatch

# Rows of weight_hh for each hidden number.
_KINDS: Final[Mapping[int, Kind]] = {1: "rnn", 3: "gru", 4: "lstm"}
_TENSOR: Final = r"(?P<tensor>(?:weight|bias)_(?:ih|hh))"
# A list of cells, or of nn.LSTM and the like with one layer each: "lstm_cells.1.weight_ih", "rnns.1.weight_ih_l0",
# "layers.1.cell.weight_ih".
_LISTED: Final = re.compile(
    rf"(?P<prefix>(?:.+\.)?)(?P<layer>[0-9]{{1,4}})\.(?P<inner>(?:[^.]+\.)?){_TENSOR}(?P<only>(?:_l0)?)"
)
# nn.LSTM and the like: "lstm.weight_ih_l1".
_LAYERS: Final = re.compile(rf"(?P<prefix>.*){_TENSOR}_l(?P<layer>[0-9]{{1,4}})")
# One cell: "lstm_cell.weight_ih".
_ALONE: Final = re.compile(rf"(?P<prefix>(?:.+\.)?){_TENSOR}")


@dataclass(frozen=True)
class Cells:
    """A decoder's tensors.

    Attributes:
        tensors: The cells', under "cells." and StackedCells' keys.
        rest: All others.
        listed: Whether the cells are two or more separate modules, which may have skip connections.
    """

    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    listed: bool = False

    @property
    def count(self) -> int:
        """Number of stacked cells."""
        return sum(key.endswith(".weight_hh") for key in self.tensors)


def find_cells(tensors: Mapping[str, Tensor]) -> Cells | None:
    """Find a decoder's cells by the names that PyTorch's modules give their tensors; None if it has none."""
    for pattern in (_LISTED, _LAYERS, _ALONE):
        if (first := next(filter(None, map(pattern.fullmatch, tensors)), None)) is not None:
            cells = _split(tensors, pattern, _place(first), listed=pattern is _LISTED)
            # A list of one may be a module in an nn.Sequential.
            if cells.count > 1 or not cells.listed:
                return cells
    return None


def cells_at(tensors: Mapping[str, Tensor], prefix: str) -> Cells:
    """Take nn.RNN's, GRU's or LSTM's tensors (prefix + weight_ih_l0)."""
    return _split(tensors, _LAYERS, {"prefix": prefix}, listed=False)


def _place(match: re.Match[str]) -> dict[str, str]:
    """Return the parts of a name that all cells share."""
    return {name: part for name, part in match.groupdict().items() if name not in ("layer", "tensor")}


def _split(tensors: Mapping[str, Tensor], pattern: re.Pattern[str], place: Mapping[str, str], *, listed: bool) -> Cells:
    cells, rest = {}, {}
    for key, value in tensors.items():
        match = pattern.fullmatch(key)
        if match is not None and _place(match) == place:
            cells[f"cells.layers.{match.groupdict().get('layer', 0)}.{match['tensor']}"] = value
        else:
            rest[key] = value
    return Cells(cells, rest, listed)


def cell_kind(rows: int, hidden_size: int) -> Kind:
    """Return the kind of cell with a weight_hh of this shape. Raises CheckpointMismatch if there is none."""
    kind = _KINDS.get(rows // hidden_size)
    if kind is None or rows % hidden_size:
        raise CheckpointMismatch(f"the recurrent weights [{rows}, {hidden_size}] are no RNN's, GRU's or LSTM's")
    return kind
