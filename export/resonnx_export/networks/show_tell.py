"""Show and Tell: the recurrent cells read the picture's feature first, then word after word.

In some sources the output for the picture scores the first word; in others it is dropped, and a start token follows.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from resonnx_export.networks.cells import Kind, MaxoutLSTMCell, StackedCells
from resonnx_export.networks.protocol import CaptionConfig, CaptionNetwork, Encoded, Stepped


@dataclass(frozen=True)
class ShowTellConfig(CaptionConfig):
    """The shape of a Show and Tell captioner.

    Attributes:
        cell: The recurrent cell.
        layers: Cells on top of each other; a "maxout" cell stands alone.
        cell_bias: Whether the cells add biases.
        residual: Whether the cells have skip connections, from the second on.
        batch_norm: Whether the projected picture is normalised.
        picture_says_word: Whether the output for the picture scores the first word.
    """

    cell: Kind | Literal["maxout"]
    layers: int
    cell_bias: bool
    residual: bool
    batch_norm: bool
    picture_says_word: bool


class ShowTell(CaptionNetwork):
    """Writes a caption from a single feature vector. State: the cells'; no features."""

    def __init__(self, config: ShowTellConfig) -> None:
        super().__init__(config)
        self.config = config
        size = config.embedding_size
        self.project = nn.Linear(config.trunk.feature_size, size)
        self.norm = nn.BatchNorm1d(size) if config.batch_norm else nn.Identity()
        self.embedding = nn.Embedding(config.vocabulary_size, size)
        self.cells: StackedCells | MaxoutLSTMCell
        if config.cell == "maxout":
            self.cells = MaxoutLSTMCell(size, config.hidden_size)
        else:
            self.cells = StackedCells(
                config.cell, size, config.hidden_size, config.layers, bias=config.cell_bias, residual=config.residual
            )
        self.output = nn.Linear(config.hidden_size, config.vocabulary_size)

    def encode(self, images: Tensor) -> Encoded:
        """Return the state after the cells have read pictures [N,3,H,W]."""
        picture = self.norm(self.project(self.trunk.features_map(images).mean(dim=(2, 3))))
        hidden, state = self.cells(picture, self.cells.start(picture))
        return Encoded(state, (), self._words(hidden) if self.config.picture_says_word else None)

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        hidden, state = self.cells(self.embedding(token), state)
        return Stepped(self._words(hidden), state)

    def _words(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self.output(hidden), dim=1)
