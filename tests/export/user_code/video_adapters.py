"""Adapters of video classifiers of a user's own class, as docs/adapters.md describes them."""

import torch
from torch import Tensor, nn

SIZE, CLASSES = 6, 3


class Adapter(nn.Module):
    """A CNN that is no ResNet, a GRU, and the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed = nn.Linear(8, SIZE)
        self.gru = nn.GRU(SIZE, 5, batch_first=True)
        self.fc = nn.Linear(5, CLASSES)

    def encode(self, images: Tensor) -> Tensor:
        return self.embed(self.cnn(images))

    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        outputs, _ = self.gru(features)
        own = torch.arange(features.shape[1])[None, :] < lengths[:, None]
        return self.fc(torch.where(own[:, :, None], outputs, 0.0).sum(dim=1) / lengths[:, None])

    def start(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(features.new_zeros(len(features), size) for size in (5, 5, 1))

    def step(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        _, hidden = self.gru(features[:, None], state[0][None])
        total, count = state[1] + hidden[0], state[2] + 1
        return self.fc(total / count), (hidden[0], total, count)


class Given(nn.Module):
    """Over features, whole clips only."""

    feature_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(SIZE, 5, batch_first=True)
        self.fc = nn.Linear(5, CLASSES)

    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        outputs, _ = self.gru(features)
        return self.fc(outputs[torch.arange(len(lengths)), lengths - 1])


class Unmasked(Given):
    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.fc(self.gru(features)[0][:, -1])


class Without(nn.Module):
    """No classify."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class OfNoSize(Given):
    feature_size = None


class Vector(Given):
    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        return super().classify(features, lengths)[:, 0]


class StartsAtOnes(Adapter):
    def start(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(each + 1 for each in super().start(features))


class NestedState(Adapter):
    def step(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, following = super().step(features, state)
        return logits, following[0]
