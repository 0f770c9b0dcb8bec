"""The tutorials' captioners in forks and notebooks: other encoders, and other places where the picture enters.

Written again from the repositories: nothing here is shared with the exporter, whose networks are held against it.
Modules bear the names that give the source's state_dict keys. `teach` of each decoder scores given words [N,T]: it
returns log-probabilities [N,T,V] of the next word after each, and before them that after the picture if it says one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .resnet import Net

WORDS, EMBEDDING, HIDDEN, ATTENTION, FEATURES = 12, 8, 16, 10, 64
Activation = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    return x


class Encoder(nn.Module):
    """EncoderCNN: children of a ResNet, or all of it with another `fc`; linear layers, and perhaps a BatchNorm."""

    def __init__(
        self,
        name: str = "resnet",
        heads: dict[str, tuple[int, int]] | None = None,
        *,
        cut: int | None = -1,
        own: int | None = None,
        bn: bool = True,
        between: Activation = unchanged,
        last: Activation = unchanged,
    ) -> None:
        super().__init__()
        net = Net()
        if own is not None:
            net.fc = nn.Linear(FEATURES, own)
        self.add_module(name, net if cut is None else nn.Sequential(*list(net.children())[:cut]))
        heads = {"linear": (FEATURES, EMBEDDING)} if heads is None else heads
        for head, sizes in heads.items():
            self.add_module(head, nn.Linear(*sizes))
        if bn:
            self.bn = nn.BatchNorm1d(EMBEDDING)
        self.name, self.heads, self.own, self.between, self.last = name, tuple(heads), own, between, last

    def forward(self, images: Tensor) -> Tensor:
        net = self.get_submodule(self.name)
        x = net.grid(images).mean((2, 3)) if isinstance(net, Net) else net(images).flatten(1)
        layers = [self.get_submodule(head) for head in self.heads]
        if isinstance(net, Net) and self.own is not None:
            layers.insert(0, net.fc)
        for number, layer in enumerate(layers):
            x = layer(self.between(x) if number else x)
        return self.last(self.bn(x) if hasattr(self, "bn") else x)


class Decoder(nn.Module):
    """DecoderRNN. The picture enters as `takes` says: "first", "silent" (its word is dropped), "each", "before"."""

    def __init__(
        self,
        takes: str = "first",
        kind: Callable[..., nn.RNNBase] = nn.LSTM,
        *,
        layers: int = 1,
        picture: int = EMBEDDING,
        names: tuple[str, str, str] = ("embed", "lstm", "linear"),
        bias: bool = True,
        states: dict[str, tuple[int, int]] | None = None,
        started: Activation = unchanged,
    ) -> None:
        super().__init__()
        inputs = EMBEDDING + (picture if takes in ("each", "before") else 0)
        self.takes, self.names, self.started = takes, names, started
        self.states = {} if states is None else states
        self.add_module(names[0], nn.Embedding(WORDS, EMBEDDING))
        self.add_module(names[1], kind(inputs, HIDDEN, layers, batch_first=True))
        self.add_module(names[2], nn.Linear(HIDDEN, WORDS, bias=bias))
        for name, sizes in self.states.items():
            self.add_module(name, nn.Linear(*sizes))

    def teach(self, picture: Tensor, words: Tensor) -> Tensor:
        embed, rnn, linear = (self.get_submodule(name) for name in self.names)
        x = embed(words)
        repeated = picture[:, None].expand(-1, words.shape[1], -1)
        if self.takes in ("first", "silent"):
            x = torch.cat([picture[:, None], x], 1)
        elif self.takes in ("each", "before"):
            x = torch.cat([x, repeated] if self.takes == "each" else [repeated, x], 2)
        outputs, _ = rnn(x, self._start(picture, rnn))
        if self.takes == "silent":
            outputs = outputs[:, 1:]
        return F.log_softmax(linear(outputs), 2)

    def _start(self, picture: Tensor, rnn: nn.RNNBase) -> tuple[Tensor, Tensor] | Tensor | None:
        made = [self.started(self.get_submodule(name)(picture)) for name in self.states]
        # One state for all layers, or one after the other.
        made = [
            each.reshape(len(each), -1, HIDDEN).transpose(0, 1).expand(rnn.num_layers, -1, -1).contiguous()
            for each in made
        ]
        if not made:
            return None
        return (made[0], made[1] if len(made) > 1 else torch.zeros_like(made[0])) if rnn.mode == "LSTM" else made[0]


class MapEncoder(nn.Module):
    """EncoderCNN of the notebooks: the map of a ResNet, as positions."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(Net().children())[:-2])

    def forward(self, images: Tensor) -> Tensor:
        return self.resnet(images).flatten(2).transpose(1, 2)


class BahdanauAttention(nn.Module):
    """Attention of the notebooks' names; returns its weights [N,P], and what is seen."""

    def __init__(self, features: int, hidden: int, size: int, score: Activation, *, bias: bool) -> None:
        super().__init__()
        self.score = score
        self.W, self.U = nn.Linear(hidden, size, bias=bias), nn.Linear(features, size, bias=bias)
        self.A = nn.Linear(size, 1, bias=bias)

    def forward(self, positions: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.A(self.score(self.U(positions) + self.W(hidden)[:, None])).squeeze(2).softmax(1)
        return alpha, (positions * alpha[:, :, None]).sum(1)


@dataclass(frozen=True)
class Sizes:
    words: int = WORDS
    embedding: int = EMBEDDING
    hidden: int = HIDDEN
    attention: int = ATTENTION
    features: int = FEATURES


class BahdanauDecoder(nn.Module):
    """The decoder of many Flickr8k notebooks; its f_beta is not used unless `gated`."""

    def __init__(
        self,
        score: Activation = torch.tanh,
        *,
        gated: bool = False,
        before: bool = False,
        bias: bool = True,
        sizes: Sizes = Sizes(),
    ) -> None:
        super().__init__()
        self.gated, self.before = gated, before
        self.embedding = nn.Embedding(sizes.words, sizes.embedding)
        self.attention = BahdanauAttention(sizes.features, sizes.hidden, sizes.attention, score, bias=bias)
        self.init_h, self.init_c = (nn.Linear(sizes.features, sizes.hidden) for _ in range(2))
        self.lstm_cell = nn.LSTMCell(sizes.embedding + sizes.features, sizes.hidden)
        self.f_beta, self.fcn = nn.Linear(sizes.hidden, sizes.features), nn.Linear(sizes.hidden, sizes.words)

    def init_hidden_state(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        mean = positions.mean(1)
        return self.init_h(mean), self.init_c(mean)

    def teach(self, positions: Tensor, words: Tensor) -> Tensor:
        (h, c), scores = self.init_hidden_state(positions), []
        for word in words.T:
            _, seen = self.attention(positions, h)
            if self.gated:
                seen = torch.sigmoid(self.f_beta(h)) * seen
            pair = [seen, self.embedding(word)] if self.before else [self.embedding(word), seen]
            h, c = self.lstm_cell(torch.cat(pair, 1), (h, c))
            scores.append(F.log_softmax(self.fcn(h), 1))
        return torch.stack(scores, 1)
