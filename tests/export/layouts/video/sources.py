"""Video classifiers as public projects define them, with their own forward over one clip [T,C,H,W] or [T,D]."""

import torch
from resonnx_export.networks.resnet import ResNet, ResNetConfig
from torch import Tensor, nn
from torch.nn import functional

from ...conftest import seeded

CLASSES, SIDE = 5, 32
TRUNK = ResNetConfig("basic", (1, 1), planes=8, num_classes=0, stem="small")
FEATURES = 16


def _cut(trunk: ResNet) -> nn.Sequential:
    """nn.Sequential(*list(resnet.children())[:-1]): numbers instead of names."""
    layers = [trunk.conv1, trunk.bn1, nn.ReLU(), nn.Identity(), trunk.layer1, trunk.layer2]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))


def _whole(head: nn.Module | None = None) -> nn.Module:
    """A ResNet with its names, and a head of its own."""
    trunk = ResNet(TRUNK)
    whole = nn.Module()
    for name in ("conv1", "bn1", "layer1", "layer2"):
        whole.add_module(name, getattr(trunk, name))
    whole.fc = nn.Identity() if head is None else head
    return whole


def _features(whole: nn.Module, x: Tensor) -> Tensor:
    x = whole.layer2(whole.layer1(functional.relu(whole.bn1(whole.conv1(x)))))
    return whole.fc(x.mean(dim=(2, 3)))


class ResCNNEncoder(nn.Module):
    """Of the CRNN in two files."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _cut(ResNet(TRUNK))
        self.fc1, self.bn1 = nn.Linear(FEATURES, 12), nn.BatchNorm1d(12, momentum=0.01)
        self.fc2, self.bn2 = nn.Linear(12, 12), nn.BatchNorm1d(12, momentum=0.01)
        self.fc3 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.fc1(self.resnet(x).flatten(1))))
        x = functional.relu(self.bn2(self.fc2(x)))
        return self.fc3(functional.dropout(x, training=self.training))


class DecoderRNN(nn.Module):
    """Likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.LSTM = nn.LSTM(10, 9, num_layers=3, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(9, 7), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.LSTM(x, None)
        return self.fc2(functional.relu(self.fc1(outputs[:, -1, :])))


class Crnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = ResCNNEncoder(), DecoderRNN()

    def forward(self, clip: Tensor) -> Tensor:
        return self.decoder(self.encoder(clip)[None])


class CnnLstm(nn.Module):
    """One file; the ResNet's fc is replaced by an nn.Sequential, and frames are fed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _whole(nn.Sequential(nn.Linear(FEATURES, 11)))
        self.lstm = nn.LSTM(11, 8, num_layers=3)
        self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        hidden = None
        for frame in clip:
            outputs, hidden = self.lstm(_features(self.resnet, frame[None])[None], hidden)
        return self.fc2(functional.relu(self.fc1(outputs[-1])))


class BiGru(nn.Module):
    """Bidirectional, the mean over time, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _whole()
        self.gru = nn.GRU(FEATURES, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, CLASSES))

    def forward(self, clip: Tensor) -> Tensor:
        outputs, _ = self.gru(_features(self.backbone, clip)[None])
        return self.classifier(outputs.mean(dim=1))


class Attending(nn.Module):
    """A score of each frame, and a head of two layers with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = _cut(ResNet(TRUNK))
        self.rnn = nn.LSTM(FEATURES, 8, batch_first=True)
        self.attention = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
        self.head = nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, CLASSES))

    def forward(self, clip: Tensor) -> Tensor:
        outputs, _ = self.rnn(self.cnn(clip).flatten(1)[None])
        weights = torch.softmax(self.attention(outputs), dim=1)
        return self.head((weights * outputs).sum(dim=1))


class Residual(nn.Module):
    """Two separate vanilla RNNs, the second with a skip connection, the maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _whole()
        self.project = nn.Linear(FEATURES, 8)
        self.rnn1, self.rnn2 = (nn.RNN(8, 8, batch_first=True, nonlinearity="relu") for _ in range(2))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        x = torch.relu(self.project(_features(self.resnet, clip)))[None]
        x, _ = self.rnn1(x)
        x = self.rnn2(x)[0] + x
        return self.fc(x.amax(dim=1))


class BothEnds(nn.Module):
    """The final states of both directions: h_n[-2] and h_n[-1]."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _whole()
        self.lstm = nn.LSTM(FEATURES, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        _, (state, _) = self.lstm(_features(self.resnet, clip)[None])
        return self.fc(torch.cat([state[-2], state[-1]], dim=1))


class Given(nn.Module):
    """Over features that were computed beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        return self.fc(self.gru(self.embed(clip)[None])[0][:, -1])


# Each source, and the values that its keys do not record.
SOURCES = {
    "video-crnn": (Crnn, {}),
    "video-cnn-lstm": (CnnLstm, {}),
    "mean both ways": (BiGru, {"pooling": "mean"}),
    "attention": (Attending, {}),
    "residual": (
        Residual,
        {"pooling": "max", "residual": "yes", "rnn-activation": "relu", "encoder-activation": "relu"},
    ),
    "both ends": (BothEnds, {"pooling": "states"}),
    "given features": (Given, {"pooling": "last"}),
}


def source_of(name: str) -> nn.Module:
    """Return a source with random weights and statistics, in eval mode."""
    with seeded():
        source = SOURCES[name][0]()
        for module in source.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return source.eval().requires_grad_(False)
