"""A recurrent network over the frames of a clip: stacked cells, pooling over time, and a head.

Computes each clip on its own frames, so it has no padding; graphs/sequence.py makes the graph of batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from resonnx_export.networks.cells import Kind
from resonnx_export.networks.heads import HeadLayer, make_head
from resonnx_export.networks.unrecorded import make_activation

# From the outputs [T,W] of the last layer of cells to one vector: that of the last frame; the last state of each
# direction, which the backward one has at the first frame; the backward direction's alone; the mean; the maximum; a
# sum weighted by scores of the frames.
Pooling = Literal["last", "states", "backward", "mean", "max", "attention"]
_CELLS: Final[dict[Kind, Callable[..., nn.Module]]] = {
    "rnn": nn.RNN,
    "rnn-relu": partial(nn.RNN, nonlinearity="relu"),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


@dataclass(frozen=True)
class SequenceConfig:
    """The shape of a recurrent network over frames.

    Attributes:
        input_size: D of the features.
        cell: The kind of all cells.
        hidden: H of each layer of cells, in one direction.
        bidirectional: Whether a second network reads the clip from its end.
        bias: Whether the cells add biases.
        residual: Whether each layer from the second on adds its input to its output.
        pooling: Over time.
        attention: The layers that score a frame's output, the last with one output; empty for other poolings.
        attention_activation: Between them, as make_activation's.
        pooled_activation: After pooling.
        head: The layers to the logits.
        head_activation: Between the head's linear layers.
        bn_eps: Of BatchNorm in the head.
    """

    input_size: int
    cell: Kind
    hidden: tuple[int, ...]
    head: tuple[HeadLayer, ...]
    bidirectional: bool = False
    bias: bool = True
    residual: bool = False
    pooling: Pooling = "last"
    attention: tuple[HeadLayer, ...] = ()
    attention_activation: str = "tanh"
    pooled_activation: str = "none"
    head_activation: str = "relu"
    bn_eps: float = 1e-5

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def pooled_size(self) -> int:
        """Inputs of the head."""
        return self.hidden[-1] * (1 if self.pooling == "backward" else self.directions)


class Sequence(nn.Module):
    """Maps the features [N,T,D] of clips to logits [N,K]; `cells` is a one-layer nn.RNN, GRU or LSTM for each layer."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.input_size, *(size * config.directions for size in config.hidden)]
        kind, both = _CELLS[config.cell], config.bidirectional
        self.cells = nn.ModuleList(
            kind(inputs, size, bias=config.bias, batch_first=True, bidirectional=both)
            for inputs, size in zip(sizes, config.hidden, strict=False)
        )
        if config.pooling == "attention":
            self.attention = make_head(sizes[-1], config.attention, config.attention_activation, config.bn_eps)
        self.pooled_activation = make_activation(config.pooled_activation)
        self.head = make_head(config.pooled_size, config.head, config.head_activation, config.bn_eps)

    @property
    def name(self) -> str:
        """The cells in words, "bidirectional lstm 256-256" and the like."""
        both = "bidirectional " if self.config.bidirectional else ""
        return f"{both}{self.config.cell} {'-'.join(map(str, self.config.hidden))}"

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits [N,K] of features [N,T,D]; frames from a clip's length, int64 [N], on are not read."""
        clips = [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]
        return self.head(self.pooled_activation(torch.stack([self._pooled(clip) for clip in clips])))  # type: ignore[no-any-return]

    def _pooled(self, clip: Tensor) -> Tensor:
        """Map a clip's features [T,D] to one vector."""
        x, state = clip[None], clip
        for number, cells in enumerate(self.cells):
            outputs, state = _run(cells, x)
            x = outputs + x if self.config.residual and number > 0 else outputs
        outputs = x[0]
        match self.config.pooling:
            case "last":
                return outputs[-1]
            case "states":
                return state.flatten()
            case "backward":
                return state[1]
            case "mean":
                return outputs.mean(dim=0)
            case "max":
                return outputs.amax(dim=0)
            case "attention":
                weights = torch.softmax(self.attention(outputs), dim=0)
                return (weights * outputs).sum(dim=0)


def _run(cells: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs [1,T,W] for x [1,T,D], and the last hidden state of each direction [directions,H]."""
    outputs, state = cells(x)
    hidden = state[0] if isinstance(state, tuple) else state
    return outputs, hidden[:, 0]
