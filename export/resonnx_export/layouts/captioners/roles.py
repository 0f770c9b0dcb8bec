"""Finds which layer of a captioner does what, by shapes first and names where shapes leave a choice."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners.encoder import Encoder, find_encoder, other_encoder
from resonnx_export.layouts.captioners.parts import Part
from resonnx_export.layouts.captioners.recurrent import Cells, find_cells
from resonnx_export.layouts.left_out import is_left_out, told
from resonnx_export.networks.detect import CheckpointMismatch, matrix_shape, resnet_config_from_state_dict
from resonnx_export.networks.resnet import ResNetConfig

# Names of embeddings, the surest first.
_WORDS: Final = tuple(re.compile(pattern, re.IGNORECASE) for pattern in ("emb|wte|glove|lookup", "word", ""))
_WORDS_OF_NAME: Final = re.compile(r"[A-Z]?[a-z]+0?|[A-Z]+(?![a-z])")
_HIDDEN: Final = frozenset({"h", "h0", "hidden", "inith"})
_CELL: Final = frozenset({"c", "c0", "cell", "memory", "initc"})
_LISTED: Final = 6


@dataclass(frozen=True)
class Layer:
    """A linear layer, an embedding or a norm: its name in its part, and its tensors by the last part of their keys."""

    name: str
    tensors: Mapping[str, Tensor]

    @property
    def is_matrix(self) -> bool:
        """Whether this is a linear layer or an embedding."""
        weight = self.tensors.get("weight")
        return weight is not None and weight.dim() == 2 and self.tensors.keys() <= {"weight", "bias"}

    @property
    def is_norm(self) -> bool:
        """Whether this is a BatchNorm of vectors."""
        return "running_mean" in self.tensors

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs; of an embedding, words and size."""
        return matrix_shape(self.tensors, "weight")

    def under(self, name: str) -> dict[str, Tensor]:
        """Return the tensors under another name."""
        return {f"{name}.{leaf}": value for leaf, value in self.tensors.items()}

    def with_bias(self, name: str) -> dict[str, Tensor]:
        """Return a linear layer's tensors under another name, with a bias of zeros if it has none."""
        weight = self.tensors["weight"]
        return {f"{name}.bias": weight.new_zeros(weight.shape[0], device=weight.device), **self.under(name)}

    def __str__(self) -> str:
        return f"{self.name} {[list(value.shape) for value in self.tensors.values()]}"


@dataclass
class Roles:
    """A captioner's parts: the ResNet, the cells, the embedding, the output layer, and the layers left to explain.

    Attributes:
        encoder, config: The ResNet's tensors, and its configuration without classes.
        attributes: The encoder's plain attributes, where it was pickled whole.
        parts: The parts of the files that were used.
        left: Layers that a layout must still take.
        left_out: Tensors that are no weights of the network, by key.
        unused: Names of layers that the network does not use.
    """

    encoder: Encoder
    config: ResNetConfig
    cells: Cells
    attributes: Mapping[str, object]
    parts: Sequence[Part]
    embedding: Layer
    output: Layer
    left: list[Layer]
    left_out: Mapping[str, Tensor]
    unused: list[str] = field(default_factory=list)

    @property
    def hidden_size(self) -> int:
        """H of the cells."""
        return matrix_shape(self.cells.tensors, "cells.layers.0.weight_hh")[1]

    @property
    def input_size(self) -> int:
        """The number of the cells' inputs."""
        return matrix_shape(self.cells.tensors, "cells.layers.0.weight_ih")[1]

    def take(self, layer: Layer) -> Layer:
        """Remove a layer from those left, as it is explained."""
        self.left.remove(layer)
        return layer

    def drop(self, layer: Layer) -> None:
        """Remove a layer from those left that the network does not use."""
        self.unused.append(self.take(layer).name)

    def matrices(self, rows: int | None = None, columns: int | None = None) -> list[Layer]:
        """Return the linear layers left with these outputs and inputs."""
        return [
            layer
            for layer in self.left
            if layer.is_matrix and rows in (None, layer.shape[0]) and columns in (None, layer.shape[1])
        ]

    def head(self) -> Layer | None:
        """Return the whole ResNet's own classification layer, if it is left."""
        head = self.encoder.head
        if head is None:
            return None
        return next((each for each in self.matrices() if f"{each.name}.".startswith(f"{head}.")), None)

    def states(self) -> dict[str, Layer]:
        """Take the layers that make the cells' first state: "h", and "c" if an LSTM's cell state has one; else none."""
        named = [(layer, *_state_role(layer.name.rpartition(".")[2])) for layer in self.matrices()]
        clear = any(is_clear for _, _, is_clear in named)
        found: dict[str, Layer] = {}
        for layer, role, is_clear in named:
            fits = layer.shape[0] in (self.hidden_size, self.hidden_size * self.cells.count)
            if role and fits and role not in found and (is_clear or not clear):
                found[role] = layer
        # Without "init" in a name, one layer alone may be another.
        if "h" not in found or not (clear or "c" in found):
            return {}
        return {role: self.take(layer) for role, layer in found.items()}

    def refuse_left(self) -> None:
        """Raise CheckpointMismatch if layers are left that nothing explains."""
        if self.left:
            raise CheckpointMismatch(f"layers that no known captioner has: {_listed(self.left[:_LISTED])}")

    def notes(self) -> tuple[str, ...]:
        """Return notes that name what was left out of the network."""
        unused = [f"left out, as the network does not use it: {name}" for name in self.unused]
        return (*told(self.left_out), *unused)


def find_roles(parts: Sequence[Part]) -> Roles | None:
    """Find a captioner's layers in its files' parts; None if they hold no ResNet, or no recurrent cells.

    Raises:
        BadInput: The parts are a captioner with another encoder, or a classifier of videos.
        CheckpointMismatch: There is not one embedding and one output layer.
    """
    decoder, cells = next(((part, cells) for part in parts if (cells := find_cells(part.tensors))), (None, None))
    first, encoder = next(((part, found) for part in parts if (found := find_encoder(part.tensors))), (None, None))
    if decoder is None or cells is None:
        return None
    if first is None or encoder is None:
        if (other := other_encoder([part.tensors for part in parts])) is not None:
            raise BadInput(
                f"the encoder is {other}; only captioners with a ResNet are exported from a checkpoint: export others "
                "with an adapter (docs/adapters.md): resonnx-export module your_file.py:build --checkpoint FILE "
                "--vocab VOCABULARY --repository models --name NAME"
            )
        return None
    if first is decoder:
        layers, left_out = _layers({key: value for key, value in encoder.rest.items() if key in cells.rest})
    else:
        (layers, left_out), (others, also) = _layers(encoder.rest), _layers(cells.rest)
        layers, left_out = layers + others, left_out | also
    hidden = matrix_shape(cells.tensors, "cells.layers.0.weight_hh")[1]
    embedding = _embedding(layers, hidden)
    outputs = [each for each in layers if each.is_matrix and each is not embedding and each.shape[1] == hidden]
    scoring = [each for each in outputs if embedding is not None and each.shape[0] == embedding.shape[0]]
    if embedding is None or len(scoring) != 1:
        raise CheckpointMismatch(
            f"not one embedding and one linear layer that scores its words beside the decoder's recurrent cells: "
            f"{_listed(layers)}"
        )
    layers = [each for each in layers if each is not embedding and each is not scoring[0]]
    used = [first] if first is decoder else [first, decoder]
    config = resnet_config_from_state_dict(encoder.tensors)
    return Roles(encoder, config, cells, first.attributes, used, embedding, scoring[0], layers, left_out)


def _layers(tensors: Mapping[str, Tensor]) -> tuple[list[Layer], dict[str, Tensor]]:
    """Group tensors into layers; returns also those that are no weights of the network."""
    grouped: dict[str, dict[str, Tensor]] = {}
    left_out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, _, leaf = key.rpartition(".")
        # Matrices are weights, whatever their names.
        if leaf != "num_batches_tracked" and value.dim() < 2 and is_left_out(key, value):
            left_out[key] = value
        else:
            grouped.setdefault(name, {})[leaf] = value
    return [Layer(name, group) for name, group in grouped.items()], left_out


def _embedding(layers: Sequence[Layer], hidden: int) -> Layer | None:
    """Return the matrix without bias whose rows another layer scores, by its name if there are several.

    Raises:
        BadInput: All layers are linear ones with biases or norms, as in a classifier of videos.
    """
    matrices = [each for each in layers if each.is_matrix]
    plain = [each for each in matrices if "bias" not in each.tensors]
    if matrices and not plain and all(each.is_matrix or each.is_norm for each in layers):
        raise BadInput(
            "this is a video classifier: features of frames enter recurrent cells, and linear layers "
            f"({_listed(matrices[-2:])}) score classes; export it by resonnx-export video-classifier FILE..."
        )
    scored = Counter(each.shape[0] for each in matrices if each.shape[1] == hidden)
    # Another layer than itself.
    fitting = [each for each in plain if scored[each.shape[0]] > (each.shape[1] == hidden)]
    for pattern in _WORDS:
        named = [each for each in fitting if pattern.search(each.name)]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def _state_role(name: str) -> tuple[str, bool]:
    """Return "h", "c" or "" for a layer's name, and whether the name is clear."""
    words = {word.lower() for word in _WORDS_OF_NAME.findall(name)}
    clear = any(word.startswith("init") or word in ("h0", "c0") for word in words)
    hidden, cell = bool(words & _HIDDEN), bool(words & _CELL)
    if hidden != cell:
        return ("h" if hidden else "c"), clear
    return ("h" if clear and not hidden else ""), clear


def _listed(layers: Sequence[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"
