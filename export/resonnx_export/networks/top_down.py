"""Top-down attention over a 14 x 14 map, as in Self-Critical Sequence Training: att2in, att2in2 and updown."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from resonnx_export.networks.blocks import adaptive_average
from resonnx_export.networks.cells import Cells, MaxoutLSTMCell, State
from resonnx_export.networks.protocol import CaptionConfig, Encoded, ResNetCaptioner, Stepped

MAP_SIZE = 14


@dataclass(frozen=True)
class TopDownConfig(CaptionConfig):
    """The shape of a captioner with top-down attention.

    Attributes:
        kind: "att2in" attends to the map itself; "att2in2" and "updown" apply a layer with ReLU to map and words.
        attention_size: A, of the space in which state and positions are compared.
        batch_norms: BatchNorms of the map: 0, 1 (before its layer) or 2 (and after it).
    """

    kind: Literal["att2in", "att2in2", "updown"]
    attention_size: int
    batch_norms: int = 0

    @property
    def value_size(self) -> int:
        """Channels of the attended map."""
        return self.trunk.feature_size if self.kind == "att2in" else self.hidden_size


class _Attention(nn.Module):
    def __init__(self, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.h2att = nn.Linear(hidden_size, attention_size)
        self.alpha_net = nn.Linear(attention_size, 1)

    def forward(self, hidden: Tensor, values: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Compare hidden [R,H] with keys [R,P,A]: weighted mean of values [R,P,D], and the weights [R,P]."""
        scores = self.alpha_net(torch.tanh(keys + self.h2att(hidden).unsqueeze(1))).squeeze(2)
        weights = torch.softmax(scores, dim=1)
        return torch.matmul(weights.unsqueeze(1), values).squeeze(1), weights


class _Att2inCore(MaxoutLSTMCell):
    """A maxout LSTM with the attended picture added to its candidates; state (h, c)."""

    def __init__(self, config: TopDownConfig) -> None:
        super().__init__(config.embedding_size, config.hidden_size)
        self.a2c = nn.Linear(config.value_size, 2 * config.hidden_size)
        self.attention = _Attention(config.hidden_size, config.attention_size)

    def read(self, word: Tensor, state: State, features: tuple[Tensor, ...]) -> tuple[Tensor, State, Tensor]:
        """Attend by the previous hidden state, then read word [R,E]: output [R,H], the next state, weights [R,P]."""
        values, keys = features
        attended, weights = self.attention(state[0], values, keys)
        hidden, state = self(word, state, self.a2c(attended))
        return hidden, state, weights


class _UpDownCore(Cells):
    """An attention LSTM and a language LSTM; state (h_att, c_att, h_lang, c_lang)."""

    def __init__(self, config: TopDownConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.att_lstm = nn.LSTMCell(config.embedding_size + 2 * hidden, hidden)
        self.lang_lstm = nn.LSTMCell(2 * hidden, hidden)
        self.attention = _Attention(hidden, config.attention_size)
        self.hidden_size, self.state_tensors = hidden, 4

    def read(self, word: Tensor, state: State, features: tuple[Tensor, ...]) -> tuple[Tensor, State, Tensor]:
        """Read word [R,E] with the whole picture, then attend; returns as _Att2inCore.read."""
        h_att, c_att, h_lang, c_lang = state
        values, keys, whole = features
        h_att, c_att = self.att_lstm(torch.cat([h_lang, whole, word], dim=1), (h_att, c_att))
        attended, weights = self.attention(h_att, values, keys)
        h_lang, c_lang = self.lang_lstm(torch.cat([attended, h_att], dim=1), (h_lang, c_lang))
        return h_lang, (h_att, c_att, h_lang, c_lang), weights


class _FeatureNorm(nn.BatchNorm1d):
    """BatchNorm of the last axis of [N,P,D]; BatchNorm1d takes the middle one for the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


class TopDown(ResNetCaptioner):
    """A captioner of the three kinds. Features: values [N,P,D], keys [N,P,A], for updown the whole picture [N,H].

    Modules have the source's names and places in their Sequentials (Identity for Dropout), so its keys fit.
    """

    def __init__(self, config: TopDownConfig) -> None:
        super().__init__(config)
        self.config = config
        hidden, channels = config.hidden_size, config.trunk.feature_size
        words = nn.Embedding(config.vocabulary_size, config.embedding_size)
        if config.kind == "att2in":
            self.embed: nn.Module = words
            self.att_embed: nn.Module = nn.Identity()
        else:
            self.embed = nn.Sequential(words, nn.ReLU())
            before = [_FeatureNorm(channels)] if config.batch_norms > 0 else []
            after = [_FeatureNorm(hidden)] if config.batch_norms > 1 else []
            layer = [nn.Linear(channels, hidden), nn.ReLU(), nn.Identity()]
            self.att_embed = nn.Sequential(*before, *layer, *after)
        self.ctx2att = nn.Linear(config.value_size, config.attention_size)
        self.core: _Att2inCore | _UpDownCore
        if config.kind == "updown":
            self.fc_embed = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())
            self.core = _UpDownCore(config)
        else:
            self.core = _Att2inCore(config)
        self.logit = nn.Linear(hidden, config.vocabulary_size)

    def encode(self, images: Tensor) -> Encoded:
        grid = self.trunk.features_map(images)
        values = self.att_embed(adaptive_average(grid, MAP_SIZE).flatten(2).transpose(1, 2))
        features: tuple[Tensor, ...] = (values, self.ctx2att(values))
        if self.config.kind == "updown":
            features += (self.fc_embed(grid.mean(dim=(2, 3))),)
        return Encoded(self.core.start(values), features)

    def step(self, token: Tensor, state: State, features: tuple[Tensor, ...]) -> Stepped:
        hidden, state, weights = self.core.read(self.embed(token), state, features)
        return Stepped(torch.log_softmax(self.logit(hidden), dim=1), state, weights)

    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        return MAP_SIZE, MAP_SIZE
