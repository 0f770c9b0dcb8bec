"""yunjey's model.py, with a small ResNet; `save` writes the training's files with random weights."""

import torch
from randomness import normalised, pictures, settle
from resnet import Net
from torch import Tensor, nn


class EncoderCNN(nn.Module):
    def __init__(self, embed_size: int) -> None:
        super().__init__()
        resnet = Net()
        self.resnet = nn.Sequential(*list(resnet.children())[:-1])
        self.linear = nn.Linear(resnet.fc.in_features, embed_size)
        self.bn = nn.BatchNorm1d(embed_size, momentum=0.01)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.resnet(images)
        features = features.reshape(features.size(0), -1)
        return self.bn(self.linear(features))  # type: ignore[no-any-return]


class DecoderRNN(nn.Module):
    def __init__(
        self, embed_size: int, hidden_size: int, vocab_size: int, num_layers: int, max_seq_length: int = 20
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_size)
        self.lstm = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocab_size)
        self.max_seg_length = max_seq_length

    def sample(self, features: Tensor, states: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return ids [N,20]."""
        sampled_ids = []
        inputs = features.unsqueeze(1)
        for _ in range(self.max_seg_length):
            hiddens, states = self.lstm(inputs, states)
            outputs = self.linear(hiddens.squeeze(1))
            _, predicted = outputs.max(1)
            sampled_ids.append(predicted)
            inputs = self.embed(predicted).unsqueeze(1)
        return torch.stack(sampled_ids, 1)


def write(images: Tensor) -> Tensor:
    """Return what the tutorial writes about pictures: ids [N,20]."""
    encoder, decoder = EncoderCNN(24), DecoderRNN(24, 32, 30, 1)
    encoder.load_state_dict(torch.load("encoder-5-3000.pkl"))
    decoder.load_state_dict(torch.load("decoder-5-3000.pkl"))
    return decoder.eval().sample(encoder.eval()(images))


def save() -> None:
    torch.manual_seed(0)
    encoder, decoder = EncoderCNN(24), DecoderRNN(24, 32, 30, 1)
    settle(encoder, lambda: encoder(normalised(pictures(32, 64, 1))))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight *= 4
    torch.save(encoder.state_dict(), "encoder-5-3000.pkl")
    torch.save(decoder.state_dict(), "decoder-5-3000.pkl")
