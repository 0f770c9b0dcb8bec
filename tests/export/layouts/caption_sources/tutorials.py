"""yunjey/pytorch-tutorial's captioner and udacity/CVND---Image-Captioning-Project's, with what students made of them.

Written again from the paper and the repository: nothing here is shared with the exporter, whose networks are held
against it. Modules bear the names that give the source's state_dict keys.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .resnet import Net


class PictureEncoder(nn.Module):
    """EncoderCNN: `linear` and `bn`, or the project's `embed`, with or without a BatchNorm of the student's."""

    def __init__(self, size: int, *, linear: str, bn: str | None, planes: int = 8) -> None:
        super().__init__()
        net = Net(planes)
        self.resnet = nn.Sequential(*list(net.children())[:-1])
        self.add_module(linear, nn.Linear(net.fc.in_features, size))
        self.order = [linear]
        if bn is not None:
            self.add_module(bn, nn.BatchNorm1d(size))
            self.order.append(bn)

    def forward(self, images: Tensor) -> Tensor:
        x = self.resnet(images).flatten(1)
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


class WordDecoder(nn.Module):
    """DecoderRNN under a student's names, with nn.LSTM or another of PyTorch's."""

    def __init__(self, names: tuple[str, str, str], rnn: nn.RNNBase, vocabulary: int) -> None:
        super().__init__()
        self.names = names
        for name, module in zip(
            names, (nn.Embedding(vocabulary, rnn.input_size), rnn, nn.Linear(rnn.hidden_size, vocabulary)), strict=True
        ):
            self.add_module(name, module)

    @property
    def output(self) -> nn.Linear:
        """What scores the words."""
        return self.get_submodule(self.names[2])

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """20 steps, whatever comes out: ids [N,20] and log-probabilities [N,20,V]."""
        embed, rnn, linear = (self.get_submodule(name) for name in self.names)
        inputs, states, ids, scores = features.unsqueeze(1), None, [], []
        for _ in range(20):
            hiddens, states = rnn(inputs, states)
            scores.append(F.log_softmax(linear(hiddens.squeeze(1)), dim=1))
            ids.append(scores[-1].max(1)[1])
            inputs = embed(ids[-1]).unsqueeze(1)
        return torch.stack(ids, 1), torch.stack(scores, 1)


class StackedDecoder(nn.Module):
    """DecoderRNN with a list of recurrent modules: each passes on what it answers, or from the second on the sum."""

    def __init__(self, name: str, cells: Iterable[nn.RNNCellBase | nn.RNNBase], words: int, *, residual: bool) -> None:
        super().__init__()
        self.name, self.residual = name, residual
        self.add_module(name, nn.ModuleList(cells))
        self.embed = nn.Embedding(words, self.get_submodule(name)[0].input_size)
        self.fc_out = nn.Linear(self.get_submodule(name)[0].hidden_size, words)

    @property
    def output(self) -> nn.Linear:
        return self.fc_out

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        cells = list(self.get_submodule(self.name))
        states, x, ids, scores = [None] * len(cells), features, [], []
        for _ in range(20):
            for i, cell in enumerate(cells):
                if isinstance(cell, nn.RNNBase):
                    answer, states[i] = cell(x.unsqueeze(0), states[i])
                    answer = answer.squeeze(0)
                else:
                    states[i] = cell(x, states[i])
                    answer = states[i][0] if isinstance(cell, nn.LSTMCell) else states[i]
                x = x + answer if self.residual and i >= 1 else answer
            scores.append(F.log_softmax(self.fc_out(x), dim=1))
            ids.append(scores[-1].max(1)[1])
            x = self.embed(ids[-1])
        return torch.stack(ids, 1), torch.stack(scores, 1)
