"""The network of yunjey's tutorial: a ResNet-50 whose projected features are the LSTM's first input."""

import torch
from resnet50 import trunk
from torch import nn

_WORDS, _UNITS, _FEATURES = 10_000, 512, 2048


class Encoder(nn.Module):
    """A picture to the LSTM's first input."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = trunk()
        self.linear = nn.Linear(_FEATURES, _UNITS)
        self.bn = nn.BatchNorm1d(_UNITS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [N, units]."""
        features: torch.Tensor = self.bn(self.linear(self.resnet(images).flatten(1)))
        return features


class Decoder(nn.Module):
    """Words, one after the other, each the likeliest."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_WORDS, _UNITS)
        self.lstm = nn.LSTM(_UNITS, _UNITS, batch_first=True)
        self.linear = nn.Linear(_UNITS, _WORDS)

    def sample(self, features: torch.Tensor, words: int) -> torch.Tensor:
        """Return the numbers of so many words for each picture, [N, words]."""
        inputs, states, sampled = features.unsqueeze(1), None, []
        for _ in range(words):
            hidden, states = self.lstm(inputs, states)
            predicted = self.linear(hidden.squeeze(1)).argmax(1)
            sampled.append(predicted)
            inputs = self.embed(predicted).unsqueeze(1)
        return torch.stack(sampled, 1)


def load(file: str) -> tuple[Encoder, Decoder]:
    """Load both from a state_dict's file."""
    encoder, decoder = Encoder(), Decoder()
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).eval()
    both.load_state_dict(torch.load(file))
    return encoder, decoder
