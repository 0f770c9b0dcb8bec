"""yunjey's model.py, with a small ResNet; `save` writes the training's files with random weights."""

import torch
from caption_sources.randomness import normalised, pictures, settle
from caption_sources.tutorials import PictureEncoder, WordDecoder
from torch import Tensor, nn


class EncoderCNN(PictureEncoder):
    def __init__(self, embed_size: int) -> None:
        super().__init__(embed_size, linear="linear", bn="bn")


class DecoderRNN(WordDecoder):
    def __init__(self, embed_size: int, hidden_size: int, vocab_size: int, num_layers: int) -> None:
        rnn = nn.LSTM(embed_size, hidden_size, num_layers, batch_first=True)
        super().__init__(("embed", "lstm", "linear"), rnn, vocab_size)


def write(images: Tensor) -> Tensor:
    """Return what the tutorial writes about pictures: ids [N,20]."""
    encoder, decoder = EncoderCNN(24), DecoderRNN(24, 32, 30, 1)
    encoder.load_state_dict(torch.load("encoder-5-3000.pkl"))
    decoder.load_state_dict(torch.load("decoder-5-3000.pkl"))
    return decoder.eval().sample(encoder.eval()(images))[0]


def save() -> None:
    torch.manual_seed(0)
    encoder, decoder = EncoderCNN(24), DecoderRNN(24, 32, 30, 1)
    settle(encoder, lambda: encoder(normalised(pictures(32, 64, 1))))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight *= 4
    torch.save(encoder.state_dict(), "encoder-5-3000.pkl")
    torch.save(decoder.state_dict(), "decoder-5-3000.pkl")
