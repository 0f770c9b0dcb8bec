"""sgrvinod's models.py, with a small ResNet; `save` writes the training's checkpoint with random weights."""

import torch
from randomness import centre, normalised, pictures, settle
from resnet import Net
from torch import Tensor, nn


class Encoder(nn.Module):
    def __init__(self, encoded_image_size: int = 14) -> None:
        super().__init__()
        self.enc_image_size = encoded_image_size
        self.resnet = nn.Sequential(*list(Net().children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((encoded_image_size, encoded_image_size))

    def forward(self, images: Tensor) -> Tensor:
        out = self.resnet(images)
        out = self.adaptive_pool(out)
        return out.permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, encoder_out: Tensor, decoder_hidden: Tensor) -> tuple[Tensor, Tensor]:
        att1 = self.encoder_att(encoder_out)
        att2 = self.decoder_att(decoder_hidden)
        att = self.full_att(self.relu(att1 + att2.unsqueeze(1))).squeeze(2)
        alpha = self.softmax(att)
        return (encoder_out * alpha.unsqueeze(2)).sum(dim=1), alpha


class DecoderWithAttention(nn.Module):
    def __init__(
        self, attention_dim: int, embed_dim: int, decoder_dim: int, vocab_size: int, encoder_dim: int = 64
    ) -> None:
        super().__init__()
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(p=0.5)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim, bias=True)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.sigmoid = nn.Sigmoid()
        self.fc = nn.Linear(decoder_dim, vocab_size)

    def init_hidden_state(self, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        mean_encoder_out = encoder_out.mean(dim=1)
        return self.init_h(mean_encoder_out), self.init_c(mean_encoder_out)


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
    encoder, decoder = Encoder(), DecoderWithAttention(12, 16, 24, 30)
    images = normalised(pictures(32, 64, 1))
    settle(encoder, lambda: encoder(images))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight *= 4
        for layer in (decoder.init_h, decoder.init_c):
            centre(layer, encoder(images).mean(dim=(1, 2)))
    torch.save({"epoch": 9, "encoder": encoder, "decoder": decoder}, "BEST_checkpoint.pth.tar")
