"""sgrvinod's models.py, with a small ResNet; `save` writes the training's checkpoint with random weights."""

import torch
from caption_sources.randomness import centre, normalised, pictures, settle
from caption_sources.sgrvinod import DecoderWithAttention, Encoder
from torch import Tensor


def write(images: Tensor) -> Tensor:
    """Return what caption.py writes about pictures with a beam of one, not stopped at <end>: ids [N,20]."""
    checkpoint = torch.load("BEST_checkpoint.pth.tar", map_location="cpu", weights_only=False)
    encoder, decoder = checkpoint["encoder"].eval(), checkpoint["decoder"].eval()
    encoder_out = encoder(images)
    encoder_out = encoder_out.view(len(images), -1, encoder_out.size(3))
    words, ids = torch.full((len(images),), 28), []
    h, c = decoder.init_hidden_state(encoder_out)
    for _ in range(20):
        awe, _ = decoder.attention(encoder_out, h)
        gate = decoder.sigmoid(decoder.f_beta(h))
        h, c = decoder.decode_step(torch.cat([decoder.embedding(words), gate * awe], dim=1), (h, c))
        words = torch.log_softmax(decoder.fc(h), dim=1).argmax(dim=1)
        ids.append(words)
    return torch.stack(ids, 1)


def save() -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder(), DecoderWithAttention(12, 16, 24, 30, 256)
    images = normalised(pictures(32, 64, 1))
    settle(encoder, lambda: encoder(images))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight *= 4
        for layer in (decoder.init_h, decoder.init_c):
            centre(layer, encoder(images).mean(dim=(1, 2)))
    torch.save({"epoch": 9, "encoder": encoder, "decoder": decoder}, "BEST_checkpoint.pth.tar")
