"""The classes of many Flickr8k notebooks, with a small ResNet; `save` writes their file with random weights."""

import torch
from randomness import centre, normalised, pictures, settle
from resnet import Net
from torch import Tensor, nn


class EncoderCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(Net().children())[:-2])

    def forward(self, images: Tensor) -> Tensor:
        features = self.resnet(images).permute(0, 2, 3, 1)
        return features.view(features.size(0), -1, features.size(-1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.W = nn.Linear(decoder_dim, attention_dim)
        self.U = nn.Linear(encoder_dim, attention_dim)
        self.A = nn.Linear(attention_dim, 1)

    def forward(self, features: Tensor, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        combined_states = torch.tanh(self.U(features) + self.W(hidden_state).unsqueeze(1))
        alpha = torch.softmax(self.A(combined_states).squeeze(2), dim=1)
        return alpha, (features * alpha.unsqueeze(2)).sum(dim=1)


class DecoderRNN(nn.Module):
    def __init__(
        self, embed_size: int, vocab_size: int, attention_dim: int, encoder_dim: int, decoder_dim: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.lstm_cell = nn.LSTMCell(embed_size + encoder_dim, decoder_dim)
        self.fcn = nn.Linear(decoder_dim, vocab_size)
        self.drop = nn.Dropout(0.3)

    def init_hidden_state(self, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        mean_encoder_out = encoder_out.mean(dim=1)
        return self.init_h(mean_encoder_out), self.init_c(mean_encoder_out)

    def generate_caption(self, features: Tensor, max_len: int = 20, start: int = 1) -> Tensor:
        """Return ids [N,20], not stopped at <EOS>."""
        h, c = self.init_hidden_state(features)
        word, ids = torch.full((len(features),), start), []
        for _ in range(max_len):
            _, context = self.attention(features, h)
            h, c = self.lstm_cell(torch.cat((self.embedding(word), context), dim=1), (h, c))
            word = self.fcn(self.drop(h)).argmax(dim=1)
            ids.append(word)
        return torch.stack(ids, 1)


class EncoderDecoder(nn.Module):
    def __init__(
        self, embed_size: int, vocab_size: int, attention_dim: int, encoder_dim: int, decoder_dim: int
    ) -> None:
        super().__init__()
        self.encoder = EncoderCNN()
        self.decoder = DecoderRNN(embed_size, vocab_size, attention_dim, encoder_dim, decoder_dim)


SIZES = {"embed_size": 16, "vocab_size": 30, "attention_dim": 12, "encoder_dim": 64, "decoder_dim": 24}


def write(images: Tensor) -> Tensor:
    """Return what the notebook writes about pictures: ids [N,20]."""
    model = EncoderDecoder(**SIZES)
    model.load_state_dict(torch.load("attention_model_state.pth")["state_dict"])
    return model.eval().decoder.generate_caption(model.encoder(images))


def save() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(**SIZES)
    images, decoder = normalised(pictures(32, 64, 1)), model.decoder
    settle(model.encoder, lambda: model.encoder(images))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight *= 4
        for layer in (decoder.init_h, decoder.init_c):
            centre(layer, model.encoder(images).mean(dim=1))
    torch.save({"num_epochs": 25, **SIZES, "state_dict": model.state_dict()}, "attention_model_state.pth")
