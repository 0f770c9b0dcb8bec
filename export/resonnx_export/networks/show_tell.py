"""Captioners whose recurrent cells read the picture's feature vector: first, before each word, or as their state.

In some sources the output for the picture scores the first word; in others it is dropped, and a start token follows.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from resonnx_export.networks.cells import Kind, MaxoutLSTMCell, StackedCells
from resonnx_export.networks.protocol import CaptionConfig, Encoded, ResNetCaptioner, Stepped
from resonnx_export.networks.unrecorded import make_activation

PictureEach = Literal["no", "word-picture", "picture-word"]


@dataclass(frozen=True)
class StateConfig:
    """How the picture becomes the cells' first state.

    Attributes:
        cell: Whether an LSTM's cell state comes from the picture too; otherwise it is zero.
        layers: Layers with a state of their own; 1 repeats the same in all.
        input_size: Of the vector that is read.
        projected: Whether that is the projected picture, or the ResNet's features.
        activation: After the layers, as make_activation's.
    """

    cell: bool
    layers: int
    input_size: int
    projected: bool
    activation: str = "none"


@dataclass(frozen=True)
class ShowTellConfig(CaptionConfig):
    """The shape of a captioner of a feature vector.

    Attributes:
        cell: The recurrent cell.
        layers: Cells on top of each other; a "maxout" cell stands alone.
        cell_bias: Whether the cells add biases.
        residual: Whether the cells have skip connections, from the second on.
        batch_norm: Whether the projected picture is normalised.
        picture_says_word: Whether the output for the picture scores the first word.
        projections: Outputs of the linear layers after the ResNet, one after the other; None is one of
            `embedding_size`, () none.
        between: The activation between the linear layers, as make_activation's.
        activation: After the last of them and its normalisation.
        picture_first: Whether the cells read the picture before the first word.
        picture_each: Whether they read it beside each word, and in which order.
        state: How the picture becomes the first state; None starts from zero.
    """

    cell: Kind | Literal["maxout"]
    layers: int
    cell_bias: bool
    residual: bool
    batch_norm: bool
    picture_says_word: bool
    projections: tuple[int, ...] | None = None
    between: str = "none"
    activation: str = "none"
    picture_first: bool = True
    picture_each: PictureEach = "no"
    state: StateConfig | None = None


class ShowTell(ResNetCaptioner):
    """Writes a caption from a feature vector. State: the cells'; features: the picture, if each step reads it."""

    def __init__(self, config: ShowTellConfig) -> None:
        super().__init__(config)
        self.config = config
        size, hidden = config.embedding_size, config.hidden_size
        outputs = (size,) if config.projections is None else config.projections
        sizes = (config.trunk.feature_size, *outputs)
        self.project = nn.ModuleList(nn.Linear(inputs, following) for inputs, following in pairwise(sizes))
        self.norm = nn.BatchNorm1d(sizes[-1]) if config.batch_norm else nn.Identity()
        self.between, self.activation = make_activation(config.between), make_activation(config.activation)
        self.embedding = nn.Embedding(config.vocabulary_size, size)
        inputs = size if config.picture_each == "no" else size + sizes[-1]
        self.cells: StackedCells | MaxoutLSTMCell
        if config.cell == "maxout":
            self.cells = MaxoutLSTMCell(inputs, hidden)
        else:
            self.cells = StackedCells(
                config.cell, inputs, hidden, config.layers, bias=config.cell_bias, residual=config.residual
            )
        if config.state is not None:
            self.started = make_activation(config.state.activation)
            self.init_h = nn.Linear(config.state.input_size, hidden * config.state.layers)
            if config.state.cell:
                self.init_c = nn.Linear(config.state.input_size, hidden * config.state.layers)
        self.output = nn.Linear(hidden, config.vocabulary_size)

    def encode(self, images: Tensor) -> Encoded:
        """Return the state before the first word of pictures [N,3,H,W], and the picture [N,P] if each step reads it."""
        config = self.config
        picture = seen = self.trunk.forward_features(images)
        for number, layer in enumerate(self.project):
            picture = layer(picture if number == 0 else self.between(picture))
        picture = self.activation(self.norm(picture))
        state = self._start(picture if config.state is None or config.state.projected else seen)
        features = () if config.picture_each == "no" else (picture,)
        if not config.picture_first:
            return Encoded(state, features)
        hidden, state = self.cells(picture, state)
        return Encoded(state, features, self._words(hidden) if config.picture_says_word else None)

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        x = self.embedding(token)
        if self.config.picture_each == "word-picture":
            x = torch.cat([x, features[0]], dim=1)
        elif self.config.picture_each == "picture-word":
            x = torch.cat([features[0], x], dim=1)
        hidden, state = self.cells(x, state)
        return Stepped(self._words(hidden), state)

    def _start(self, picture: Tensor) -> tuple[Tensor, ...]:
        zeros, how = self.cells.start(picture), self.config.state
        if how is None:
            return zeros
        hidden = self._layers(self.started(self.init_h(picture)), how)
        if len(zeros) == self.config.layers:
            return hidden
        cell = self._layers(self.started(self.init_c(picture)), how) if how.cell else zeros[1::2]
        return tuple(part for pair in zip(hidden, cell, strict=True) for part in pair)

    def _layers(self, states: Tensor, how: StateConfig) -> tuple[Tensor, ...]:
        return (states,) * self.config.layers if how.layers == 1 else states.chunk(how.layers, dim=1)

    def _words(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self.output(hidden), dim=1)
