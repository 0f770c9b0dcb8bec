"""The captioning sources' own networks and decoding rules, written again from their papers and repositories.

Nothing here is shared with the exporter: these are what its networks are held against. Modules bear the names that give
the sources' state_dict keys.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    """A residual block of two or, `deep`, three convolutions; `caffe` strides in the first of three."""

    def __init__(self, inputs: int, planes: int, stride: int, *, deep: bool, caffe: bool) -> None:
        super().__init__()
        outputs = planes * 4 if deep else planes
        if deep:
            self.conv1 = nn.Conv2d(inputs, planes, 1, stride if caffe else 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1 if caffe else stride, 1, bias=False)
            self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Net(nn.Module):
    """A ResNet whose children are torchvision's, in their order."""

    def __init__(self, planes: int = 8, *, deep: bool = False, caffe: bool = False, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if caffe else nn.MaxPool2d(3, 2, 1)
        inputs = planes
        for stage in range(4):
            outputs = planes << stage
            block = Block(inputs, outputs, 2 if stage else 1, deep=deep, caffe=caffe)
            inputs = outputs * 4 if deep else outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(block))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def grid(self, x: Tensor) -> Tensor:
        for child in list(self.children())[:-2]:
            x = child(x)
        return x


# --- yunjey/pytorch-tutorial, udacity/CVND---Image-Captioning-Project ---


class PictureEncoder(nn.Module):
    """EncoderCNN: `linear` and `bn`, or the project's `embed`, with or without a BatchNorm of the student's."""

    def __init__(self, size: int, *, linear: str, bn: str | None) -> None:
        super().__init__()
        net = Net()
        self.resnet = nn.Sequential(*list(net.children())[:-1])
        self.add_module(linear, nn.Linear(net.fc.in_features, size))
        self.order = [linear]
        if bn is not None:
            self.add_module(bn, nn.BatchNorm1d(size))
            self.order.append(bn)

    def forward(self, images: Tensor) -> Tensor:
        x = self.resnet(images).flatten(1)
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


class WordDecoder(nn.Module):
    """DecoderRNN under a student's names, with nn.LSTM or another of PyTorch's."""

    def __init__(self, names: tuple[str, str, str], rnn: nn.RNNBase, vocabulary: int) -> None:
        super().__init__()
        self.names = names
        for name, module in zip(
            names, (nn.Embedding(vocabulary, rnn.input_size), rnn, nn.Linear(rnn.hidden_size, vocabulary)), strict=True
        ):
            self.add_module(name, module)

    @property
    def output(self) -> nn.Linear:
        """What scores the words."""
        return self.get_submodule(self.names[2])

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """20 steps, whatever comes out: ids [N,20] and log-probabilities [N,20,V]."""
        embed, rnn, linear = (self.get_submodule(name) for name in self.names)
        inputs, states, ids, scores = features.unsqueeze(1), None, [], []
        for _ in range(20):
            hiddens, states = rnn(inputs, states)
            scores.append(F.log_softmax(linear(hiddens.squeeze(1)), dim=1))
            ids.append(scores[-1].max(1)[1])
            inputs = embed(ids[-1]).unsqueeze(1)
        return torch.stack(ids, 1), torch.stack(scores, 1)


class StackedDecoder(nn.Module):
    """DecoderRNN with a list of recurrent modules: each passes on what it answers, or from the second on the sum."""

    def __init__(self, name: str, cells: Iterable[nn.RNNCellBase | nn.RNNBase], words: int, *, residual: bool) -> None:
        super().__init__()
        self.name, self.residual = name, residual
        self.add_module(name, nn.ModuleList(cells))
        self.embed = nn.Embedding(words, self.get_submodule(name)[0].input_size)
        self.fc_out = nn.Linear(self.get_submodule(name)[0].hidden_size, words)

    @property
    def output(self) -> nn.Linear:
        """As WordDecoder's."""
        return self.fc_out

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """As WordDecoder's."""
        cells = list(self.get_submodule(self.name))
        states, x, ids, scores = [None] * len(cells), features, [], []
        for _ in range(20):
            for i, cell in enumerate(cells):
                if isinstance(cell, nn.RNNBase):
                    answer, states[i] = cell(x.unsqueeze(0), states[i])
                    answer = answer.squeeze(0)
                else:
                    states[i] = cell(x, states[i])
                    answer = states[i][0] if isinstance(cell, nn.LSTMCell) else states[i]
                x = x + answer if self.residual and i >= 1 else answer
            scores.append(F.log_softmax(self.fc_out(x), dim=1))
            ids.append(scores[-1].max(1)[1])
            x = self.embed(ids[-1])
        return torch.stack(ids, 1), torch.stack(scores, 1)


# --- sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning ---


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

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        mixed = self.relu(self.encoder_att(pixels) + self.decoder_att(hidden).unsqueeze(1))
        alpha = self.softmax(self.full_att(mixed).squeeze(2))
        return (pixels * alpha.unsqueeze(2)).sum(dim=1)


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

    def greedy(self, grid: Tensor, start: int, steps: int = 50) -> tuple[Tensor, Tensor]:
        """caption.py with a beam of one, not stopped at <end>: ids [N,T] and log-probabilities [N,T,V]."""
        pixels = grid.flatten(1, 2)
        mean = pixels.mean(dim=1)
        h, c, ids, scores = self.init_h(mean), self.init_c(mean), [], []
        words = torch.full((len(grid),), start)
        for _ in range(steps):
            seen = self.sigmoid(self.f_beta(h)) * self.attention(pixels, h)
            h, c = self.decode_step(torch.cat([self.embedding(words), seen], dim=1), (h, c))
            scores.append(F.log_softmax(self.fc(self.dropout(h)), dim=1))
            words = scores[-1].argmax(dim=1)
            ids.append(words)
        return torch.stack(ids, 1), torch.stack(scores, 1)

    def beam_search(self, grid: Tensor, start: int, end: int, width: int, steps: int = 50) -> list[int]:
        """caption.py: ids of the best caption that ended, of one picture's grid [1,h,w,C]; none where it crashes."""
        pixels = grid.flatten(1, 2)
        mean = pixels.mean(dim=1)
        h, c = self.init_h(mean), self.init_c(mean)
        sums, paths, ended = torch.zeros(1), [[start]], []
        for _ in range(steps):
            words = torch.tensor([path[-1] for path in paths])
            shown = pixels.expand(len(words), -1, -1)
            seen = self.sigmoid(self.f_beta(h)) * self.attention(shown, h)
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


# --- ruotianluo/ImageCaptioning.pytorch ---


class MaxoutCore(nn.Module):
    """LSTMCore: five chunks, the candidate is the larger of the last two, without tanh."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.i2h = nn.Linear(inputs, 5 * size)
        self.h2h = nn.Linear(size, 5 * size)

    def update(self, x: Tensor, h: Tensor, c: Tensor, more: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        sums = self.i2h(x) + self.h2h(h)
        size = h.shape[1]
        i, f, o = (torch.sigmoid(sums[:, k * size : (k + 1) * size]) for k in range(3))
        both = sums[:, 3 * size :] + more
        c = f * c + i * torch.max(both[:, :size], both[:, size:])
        return o * torch.tanh(c), c


class Compare(nn.Module):
    """`Attention` of AttModel: tanh, softmax over all positions."""

    def __init__(self, size: int, att: int) -> None:
        super().__init__()
        self.h2att = nn.Linear(size, att)
        self.alpha_net = nn.Linear(att, 1)

    def forward(self, h: Tensor, feats: Tensor, projected: Tensor) -> Tensor:
        dot = torch.tanh(projected + self.h2att(h).unsqueeze(1).expand_as(projected))
        weight = F.softmax(self.alpha_net(dot).squeeze(2), dim=1)
        return torch.bmm(weight.unsqueeze(1), feats).squeeze(1)


class Att2inCore(MaxoutCore):
    def __init__(self, inputs: int, size: int, att: int, values: int) -> None:
        super().__init__(inputs, size)
        self.a2c = nn.Linear(values, 2 * size)
        self.attention = Compare(size, att)


class UpDownCore(nn.Module):
    def __init__(self, inputs: int, size: int, att: int) -> None:
        super().__init__()
        self.att_lstm = nn.LSTMCell(inputs + 2 * size, size)
        self.lang_lstm = nn.LSTMCell(2 * size, size)
        self.attention = Compare(size, att)


@dataclass(frozen=True)
class Sizes:
    vocabulary: int
    feature: int
    embedding: int = 24
    hidden: int = 32
    attention: int = 12


State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Captioner(nn.Module):
    """One caption model of captioning/models, its CNN's features (mean and 14 x 14) given from outside."""

    def __init__(self, kind: str, sizes: Sizes, *, rnn: str = "LSTM", layers: int = 1, use_bn: int = 0) -> None:
        super().__init__()
        self.kind, self.sizes, self.use_bn = kind, sizes, use_bn
        v, d, e, h, a = sizes.vocabulary, sizes.feature, sizes.embedding, sizes.hidden, sizes.attention
        words = nn.Embedding(v, e)
        if kind == "show_tell":
            self.img_embed = nn.Linear(d, e)
            self.core = getattr(nn, rnn)(e, h, layers, bias=False)
        elif kind == "fc":
            self.img_embed, self.core = nn.Linear(d, e), MaxoutCore(e, h)
        elif kind == "newfc":
            self.fc_embed, self._core = nn.Linear(d, e), MaxoutCore(e, h)
        elif kind == "att2in":
            self.ctx2att, self.core = nn.Linear(d, a), Att2inCore(e, h, a, d)
        else:
            words = nn.Sequential(words, nn.ReLU(), nn.Dropout())
            norms = [nn.BatchNorm1d(d)] if use_bn else [], [nn.BatchNorm1d(h)] if use_bn == 2 else []
            self.att_embed = nn.Sequential(*norms[0], nn.Linear(d, h), nn.ReLU(), nn.Dropout(), *norms[1])
            self.ctx2att = nn.Linear(h, a)
            self.core = UpDownCore(e, h, a) if kind == "updown" else Att2inCore(e, h, a, h)
            if kind == "updown":
                self.fc_embed = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Dropout())
        self.embed = words
        self.logit = nn.Linear(h, v)

    def sample(self, grid: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """_sample, greedy, not stopped at 0: ids [N,T] and log-probabilities [N,T,V], the picture's step dropped."""
        step, state = self._start(grid)
        it, ids, scores = torch.zeros(len(grid), dtype=torch.long), [], []
        for _ in range(steps):
            output, state = step(self.embed(it), state)
            scores.append(F.log_softmax(self.logit(output), dim=1))
            it = scores[-1].max(1)[1]
            ids.append(it)
        return torch.stack(ids, 1), torch.stack(scores, 1)

    def beam_search(self, grid: Tensor, width: int, steps: int, *, suppress: bool) -> list[int]:
        """CaptionModel.beam_search of a grid [1,C,h,w]: the best caption's ids; the last word may be suppressed."""
        step, state = self._start(grid.expand(width, -1, -1, -1))
        it, sums, paths, done = torch.zeros(width, dtype=torch.long), torch.zeros(width), [[]] * width, []
        for t in range(steps):
            output, state = step(self.embed(it), state)
            log_probs = F.log_softmax(self.logit(output), dim=1)
            if suppress:
                log_probs[:, -1] -= 1000
            totals = (sums[:, None] + log_probs)[: 1 if t == 0 else width]
            sums, places = (each[:width] for each in totals.flatten().sort(descending=True))
            rows, it = places // self.sizes.vocabulary, places % self.sizes.vocabulary
            state = tuple(each[rows] for each in state)
            paths = [[*paths[row], word] for row, word in zip(rows.tolist(), it.tolist(), strict=True)]
            for i, path in enumerate(paths):
                if path[-1] == 0 or t == steps - 1:
                    done.append((float(sums[i]), path))
                    sums[i] -= 1000
        return max(done)[1]

    def _start(self, grid: Tensor) -> tuple[Step, State]:
        mean = grid.mean(3).mean(2)
        pixels = F.adaptive_avg_pool2d(grid, (14, 14)).permute(0, 2, 3, 1).reshape(len(grid), 196, -1)
        return getattr(self, f"_{self.kind}")(mean, pixels)

    def _zeros(self, like: Tensor, count: int) -> State:
        return tuple(torch.zeros(len(like), self.sizes.hidden) for _ in range(count))

    def _show_tell(self, mean: Tensor, _: Tensor) -> tuple[Step, State]:
        def step(x: Tensor, state: State | None) -> tuple[Tensor, State]:
            output, state = self.core(x.unsqueeze(0), state)
            return output.squeeze(0), state

        return step, step(self.img_embed(mean), None)[1]

    def _maxout(self, core: MaxoutCore, picture: Tensor) -> tuple[Step, State]:
        def step(x: Tensor, state: State) -> tuple[Tensor, State]:
            h, c = core.update(x, *state)
            return h, (h, c)

        return step, step(picture, self._zeros(picture, 2))[1]

    def _fc(self, mean: Tensor, _: Tensor) -> tuple[Step, State]:
        return self._maxout(self.core, self.img_embed(mean))

    def _newfc(self, mean: Tensor, _: Tensor) -> tuple[Step, State]:
        return self._maxout(self._core, self.fc_embed(mean))

    def embedded(self, pixels: Tensor) -> Tensor:
        """att_embed over the positions of all pictures as one list, as pack_wrapper has it."""
        return self.att_embed(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)

    def _att2in(self, _: Tensor, pixels: Tensor) -> tuple[Step, State]:
        return self._attending(pixels)

    def _att2in2(self, _: Tensor, pixels: Tensor) -> tuple[Step, State]:
        return self._attending(self.embedded(pixels))

    def _attending(self, feats: Tensor) -> tuple[Step, State]:
        projected = self.ctx2att(feats)

        def step(x: Tensor, state: State) -> tuple[Tensor, State]:
            h, c = self.core.update(x, *state, self.core.a2c(self.core.attention(state[0], feats, projected)))
            return h, (h, c)

        return step, self._zeros(feats, 2)

    def _updown(self, mean: Tensor, pixels: Tensor) -> tuple[Step, State]:
        feats, whole = self.embedded(pixels), self.fc_embed(mean)
        projected = self.ctx2att(feats)

        def step(x: Tensor, state: State) -> tuple[Tensor, State]:
            h1, c1, h2, c2 = state
            h1, c1 = self.core.att_lstm(torch.cat([h2, whole, x], 1), (h1, c1))
            h2, c2 = self.core.lang_lstm(torch.cat([self.core.attention(h1, feats, projected), h1], 1), (h2, c2))
            return h2, (h1, c1, h2, c2)

        return step, self._zeros(feats, 4)


# --- what the tests do with them ---


def settle(module: nn.Module, run: Callable[[], object]) -> None:
    """Give BatchNorms the statistics of what `run` puts through them."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
    module.train()
    with torch.no_grad():
        run()
    module.eval()


@torch.no_grad()
def enliven(module: nn.Module, output: nn.Linear, write: Callable[[], tuple[Tensor, Tensor]], end: int) -> None:
    """Make random weights write varied captions: larger matrices, and every word as likely as the others on average.

    Args:
        module: Its matrices are enlarged, not its convolutions.
        output: The layer that scores the words.
        write: Gives ids and scores [N,T,V] of some pictures.
        end: The word that ends captions; it is made likelier.
    """
    for value in module.parameters():
        if value.dim() == 2:
            value *= 3
    for _ in range(3):
        scores = write()[1]
        output.bias -= scores.mean(dim=(0, 1))
    output.bias[end] += scores[..., end].std() / 2


@torch.no_grad()
def centre(layer: nn.Linear, features: Tensor) -> None:
    """Make a layer answer features [N,D] with mean 0 and deviation 1: random networks see all pictures alike."""
    answers = layer(features)
    layer.weight /= answers.std(0).unsqueeze(1)
    layer.bias.copy_((layer.bias - answers.mean(0)) / answers.std(0))


def pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Make uint8 [N,size,size,3]: coarse fields of random colour, with noise."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.clip(fields + rng.integers(-40, 41, fields.shape), 0, 255).astype(np.uint8)


def normalised(images: np.ndarray) -> Tensor:
    """ToTensor and Normalize with ImageNet's numbers."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(((images / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


def vocabulary_object(words: Iterable[str]) -> SimpleNamespace:
    """The attributes of the tutorials' Vocabulary."""
    words = list(words)
    return SimpleNamespace(
        word2idx={word: i for i, word in enumerate(words)}, idx2word=dict(enumerate(words)), idx=len(words)
    )
