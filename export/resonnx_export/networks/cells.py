"""Recurrent cells, one step at a time: PyTorch's RNN, GRU and LSTM in layers, and the maxout LSTM.

The state is a flat tuple of [R,H] tensors, each a tensor of the decoder's graph.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["rnn", "rnn-relu", "gru", "lstm"]
State = tuple[Tensor, ...]


class Cells(nn.Module):
    """Cells with `state_tensors` states of [R,hidden_size]."""

    hidden_size: int
    state_tensors: int

    def start(self, rows: Tensor) -> State:
        """Return the zero state of R rows, given `rows` [R, ...]."""
        return tuple(rows.new_zeros(len(rows), self.hidden_size) for _ in range(self.state_tensors))


class StackedCells(Cells):
    """nn.RNN, nn.GRU or nn.LSTM as one cell a layer; state (h_0, h_1, ...), an LSTM's (h_0, c_0, h_1, ...).

    With `residual`, each cell from the second on adds its input to its output, but not to its own state (Wu et al.
    2016, GNMT, section 3.1).
    """

    def __init__(
        self, kind: Kind, input_size: int, hidden_size: int, layers: int, *, bias: bool = True, residual: bool = False
    ) -> None:
        super().__init__()
        cells: dict[Kind, Callable[..., nn.Module]] = {
            "rnn": nn.RNNCell,
            "rnn-relu": partial(nn.RNNCell, nonlinearity="relu"),
            "gru": nn.GRUCell,
            "lstm": nn.LSTMCell,
        }
        sizes = [input_size, *[hidden_size] * (layers - 1)]
        self.layers = nn.ModuleList(cells[kind](size, hidden_size, bias=bias) for size in sizes)
        self.hidden_size = hidden_size
        self.states = 2 if kind == "lstm" else 1
        self.state_tensors = self.states * layers
        self.residual = residual

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Read x [R,E]: returns the last layer's output [R,H] and the next state."""
        following: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if self.states == 2:
                following += layer(x, (state[2 * number], state[2 * number + 1]))
            else:
                following.append(layer(x, state[number]))
            hidden = following[-self.states]
            x = hidden + x if self.residual and number > 0 else hidden
        return x, tuple(following)


class MaxoutLSTMCell(Cells):
    """The LSTM of Self-Critical Sequence Training: the candidate is the larger of two, without tanh; state (h, c)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.i2h = nn.Linear(input_size, 5 * hidden_size)
        self.h2h = nn.Linear(hidden_size, 5 * hidden_size)
        self.hidden_size, self.state_tensors = hidden_size, 2

    def forward(self, x: Tensor, state: State, context: Tensor | None = None) -> tuple[Tensor, State]:
        """Read x [R,E]: returns output [R,H] and the next state; context [R,2H] is added to the candidates."""
        hidden, cell = state
        # Gates and candidates in the order of the rows: input, forget, output, candidate, candidate.
        sums = self.i2h(x) + self.h2h(hidden)
        gates, candidates = sums.split([3 * self.hidden_size, 2 * self.hidden_size], dim=1)
        if context is not None:
            candidates = candidates + context
        take, keep, give = torch.sigmoid(gates).chunk(3, dim=1)
        cell = keep * cell + take * torch.maximum(*candidates.chunk(2, dim=1))
        hidden = give * torch.tanh(cell)
        return hidden, (hidden, cell)
