"""The classes of many Flickr8k notebooks, with a small ResNet; `save` writes their file with random weights."""

import torch
from caption_sources.randomness import centre, normalised, pictures, settle
from caption_sources.variants import BahdanauDecoder, MapEncoder, Sizes
from torch import Tensor, nn


class DecoderRNN(BahdanauDecoder):
    def __init__(
        self, embed_size: int, vocab_size: int, attention_dim: int, encoder_dim: int, decoder_dim: int
    ) -> None:
        super().__init__(sizes=Sizes(vocab_size, embed_size, decoder_dim, attention_dim, encoder_dim))
        self.drop = nn.Dropout(0.3)

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
        self.encoder = MapEncoder()
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
