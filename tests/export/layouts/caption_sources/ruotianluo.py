"""ruotianluo/ImageCaptioning.pytorch: the models of captioning/models and their two decoding rules.

Written again from the paper and the repository: nothing here is shared with the exporter, whose networks are held
against it. Modules bear the names that give the source's state_dict keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


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
