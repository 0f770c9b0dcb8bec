"""A ResNet+LSTM captioner with soft attention (Show, Attend and Tell), as `encode` and `step`.

Decoder keys are those of the widely used PyTorch tutorial.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from resonnx_export.networks.blocks import adaptive_average
from resonnx_export.networks.detect import matrix_shape, resnet_config_from_state_dict
from resonnx_export.networks.protocol import CaptionConfig, Encoded, ResNetCaptioner, Stepped

_TRUNK = "trunk."


@dataclass(frozen=True)
class CaptionerConfig(CaptionConfig):
    """The shape of a captioner with soft attention.

    Attributes:
        attention_size: A, of the space in which state and positions are compared.
        score: The activation before the score of a position.
        gated: Whether the attended picture is multiplied by a gate of the state.
        picture_before_word: The order of the cell's input.
        map_size: Side to which the feature map is averaged before attention; None keeps the trunk's own. Not recorded
            in a state_dict.
    """

    attention_size: int
    score: Literal["relu", "tanh"] = "relu"
    gated: bool = True
    picture_before_word: bool = False
    map_size: int | None = None


class SoftAttention(nn.Module):
    """Additive attention; the part that depends on the picture alone (`encoder_att`) is applied once, by `encode`."""

    def __init__(self, feature_size: int, hidden_size: int, attention_size: int, score: str = "relu") -> None:
        super().__init__()
        self.score = torch.tanh if score == "tanh" else torch.relu
        self.encoder_att = nn.Linear(feature_size, attention_size)
        self.decoder_att = nn.Linear(hidden_size, attention_size)
        self.full_att = nn.Linear(attention_size, 1)

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """Compare hidden [R,H] with keys [R,P,A]: weights [R,P] that sum to one."""
        query = self.decoder_att(hidden).unsqueeze(1)
        scores = self.full_att(self.score(keys + query)).squeeze(2)
        return torch.softmax(scores, dim=1)


class Captioner(ResNetCaptioner):
    """Attends to the picture before each word. State: h, c [N,H]; features: map [N,P,D], its keys [N,P,A]."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__(config)
        self.config = config
        features, hidden = config.trunk.feature_size, config.hidden_size
        self.attention = SoftAttention(features, hidden, config.attention_size, config.score)
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.decode_step = nn.LSTMCell(config.embedding_size + features, hidden)
        self.init_h = nn.Linear(features, hidden)
        self.init_c = nn.Linear(features, hidden)
        if config.gated:
            self.f_beta = nn.Linear(hidden, features)
        self.fc = nn.Linear(hidden, config.vocabulary_size)

    def encode(self, images: Tensor) -> Encoded:
        """Return the initial state of pictures [N,3,H,W], the feature map and its projected keys."""
        grid = self.trunk.features_map(images)
        if self.config.map_size is not None:
            grid = adaptive_average(grid, self.config.map_size)
        values = grid.flatten(2).transpose(1, 2)
        mean = values.mean(dim=1)
        keys = self.attention.encoder_att(values)
        return Encoded((self.init_h(mean), self.init_c(mean)), (values, keys))

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        hidden, cell = state
        values, keys = features
        attention = self.attention(hidden, keys)
        context = torch.matmul(attention.unsqueeze(1), values).squeeze(1)
        if self.config.gated:
            context = torch.sigmoid(self.f_beta(hidden)) * context
        word = self.embedding(token)
        pair = [context, word] if self.config.picture_before_word else [word, context]
        inputs = torch.cat(pair, dim=1)
        hidden, cell = self.decode_step(inputs, (hidden, cell))
        log_probs = torch.log_softmax(self.fc(hidden), dim=1)
        return Stepped(log_probs, (hidden, cell), attention)

    @torch.no_grad()
    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        if (side := self.config.map_size) is not None:
            return side, side
        rows, columns = self.trunk.features_map(torch.zeros(1, 3, height, width)).shape[2:]
        return rows, columns

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Score captions int64 [N,T] by teacher forcing: log_probs [N,T-1,V] of tokens 1..T-1."""
        state, features, _ = self.encode(images)
        scores = []
        for position in range(captions.shape[1] - 1):
            stepped = self.step(captions[:, position], state, features)
            state = stepped.state
            scores.append(stepped.log_probs)
        return torch.stack(scores, dim=1)


def config_from_state_dict(state_dict: Mapping[str, Tensor]) -> CaptionerConfig:
    """Read a captioner's configuration from its state_dict. Raises CheckpointMismatch if keys or shapes do not fit."""
    trunk = {key.removeprefix(_TRUNK): value for key, value in state_dict.items() if key.startswith(_TRUNK)}
    vocabulary_size, embedding_size = matrix_shape(state_dict, "embedding.weight")
    return CaptionerConfig(
        trunk=resnet_config_from_state_dict(trunk),
        vocabulary_size=vocabulary_size,
        embedding_size=embedding_size,
        hidden_size=matrix_shape(state_dict, "decode_step.weight_hh")[1],
        attention_size=matrix_shape(state_dict, "attention.encoder_att.weight")[0],
    )
