"""sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning: Encoder, DecoderWithAttention, and the two rules of caption.py.

Written again from the paper and the repository: nothing here is shared with the exporter, whose networks are held
against it. Modules bear the names that give the source's state_dict keys.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .resnet import Net


class Encoder(nn.Module):
    def __init__(self, encoded_image_size: int = 14) -> None:
        super().__init__()
        self.enc_image_size = encoded_image_size
        self.resnet = nn.Sequential(*list(Net(deep=True).children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((encoded_image_size, encoded_image_size))

    def forward(self, images: Tensor) -> Tensor:
        return self.adaptive_pool(self.resnet(images)).permute(0, 2, 3, 1)


class Attention(nn.Module):
    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, pixels: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.relu(self.encoder_att(pixels) + self.decoder_att(hidden).unsqueeze(1))
        alpha = self.softmax(self.full_att(mixed).squeeze(2))
        return (pixels * alpha.unsqueeze(2)).sum(dim=1), alpha


class DecoderWithAttention(nn.Module):
    def __init__(self, attention_dim: int, embed_dim: int, decoder_dim: int, vocab_size: int, encoder_dim: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(0.5)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim, bias=True)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.sigmoid = nn.Sigmoid()
        self.fc = nn.Linear(decoder_dim, vocab_size)

    def init_hidden_state(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean = pixels.mean(dim=1)
        return self.init_h(mean), self.init_c(mean)

    def attend(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """What the decoder sees of the picture, after the gate."""
        return self.sigmoid(self.f_beta(hidden)) * self.attention(pixels, hidden)[0]

    def greedy(self, grid: Tensor, start: int, steps: int = 50) -> tuple[Tensor, Tensor]:
        """caption.py with a beam of one, not stopped at <end>: ids [N,T] and log-probabilities [N,T,V]."""
        pixels = grid.flatten(1, 2)
        (h, c), ids, scores = self.init_hidden_state(pixels), [], []
        words = torch.full((len(grid),), start)
        for _ in range(steps):
            seen = self.attend(pixels, h)
            h, c = self.decode_step(torch.cat([self.embedding(words), seen], dim=1), (h, c))
            scores.append(F.log_softmax(self.fc(self.dropout(h)), dim=1))
            words = scores[-1].argmax(dim=1)
            ids.append(words)
        return torch.stack(ids, 1), torch.stack(scores, 1)

    def beam_search(self, grid: Tensor, start: int, end: int, width: int, steps: int = 50) -> list[int]:
        """caption.py: ids of the best caption that ended, of one picture's grid [1,h,w,C]; none where it crashes."""
        pixels = grid.flatten(1, 2)
        h, c = self.init_hidden_state(pixels)
        sums, paths, ended = torch.zeros(1), [[start]], []
        for _ in range(steps):
            words = torch.tensor([path[-1] for path in paths])
            shown = pixels.expand(len(words), -1, -1)
            seen = self.attend(shown, h)
            h, c = self.decode_step(torch.cat([self.embedding(words), seen], dim=1), (h, c))
            totals = sums[:, None] + F.log_softmax(self.fc(self.dropout(h)), dim=1)
            sums, places = totals.flatten().topk(width)
            grown = [[*paths[int(place) // self.vocab_size], int(place) % self.vocab_size] for place in places]
            live = [i for i, path in enumerate(grown) if path[-1] != end]
            ended += [(float(sums[i]), path) for i, path in enumerate(grown) if path[-1] == end]
            width = len(live)
            if width == 0:
                break
            rows = places[live] // self.vocab_size
            h, c, sums, paths = h[rows], c[rows], sums[live], [grown[i] for i in live]
        return max(ended)[1][1:] if ended else []
