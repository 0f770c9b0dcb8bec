"""Captioners of forks and notebooks: their halves, their layouts, and what has to be stated for equal outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from resonnx_export.layouts.captioners import CaptionSource
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.vocabulary import Vocabulary
from torch import Tensor, nn

from ..caption_sources.variants import (
    EMBEDDING,
    FEATURES,
    HIDDEN,
    WORDS,
    BahdanauDecoder,
    Decoder,
    Encoder,
    MapEncoder,
)

VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(WORDS - 4))))
SOS = Vocabulary(("<PAD>", "<SOS>", "<EOS>", "<UNK>", *VOCABULARY.words[4:]))


@dataclass(frozen=True)
class Case:
    """A source's halves, the layout that they are, and the properties to state for equal outputs."""

    encoder: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    layout: str
    assume: Mapping[str, str] = field(default_factory=dict)
    vocabulary: Vocabulary = VOCABULARY


_EMBED: dict[str, tuple[int, int]] = {"embed": (FEATURES, EMBEDDING)}
_CHAIN = {"fc1": (FEATURES, 20), "fc2": (20, EMBEDDING)}
_RELU = partial(Decoder, kind=partial(nn.RNN, nonlinearity="relu"))
_UNCLEAR = {"proj_h": (EMBEDDING, HIDDEN), "proj_c": (EMBEDDING, HIDDEN)}
_STATES = {"init_h": (EMBEDDING, HIDDEN), "init_c": (EMBEDDING, HIDDEN)}
UDACITY = partial(Encoder, heads=_EMBED, bn=False)
CASES = {
    # The names of files that users report.
    "yunjey_control": Case(Encoder, Decoder, "yunjey"),
    "yunjey_2017": Case(partial(Encoder, heads={}, cut=None, own=EMBEDDING), Decoder, "yunjey"),
    "encoder_attr_backbone": Case(
        partial(Encoder, "backbone", {"fc": (FEATURES, EMBEDDING)}), Decoder, "udacity-cvnd"
    ),
    "sos_eos": Case(Encoder, Decoder, "yunjey", vocabulary=SOS),
    "lstm_three_layers": Case(Encoder, partial(Decoder, layers=3), "yunjey"),
    "gru": Case(Encoder, partial(Decoder, kind=nn.GRU), "yunjey"),
    "picture_each_step": Case(Encoder, partial(Decoder, "each"), "picture-each-step"),
    "init_state": Case(Encoder, partial(Decoder, "state", states=_STATES), "picture-state"),
    "kaggle_flickr8k_attention": Case(MapEncoder, BahdanauDecoder, "flickr8k-attention", vocabulary=SOS),
    "udacity_relu": Case(partial(UDACITY, last=torch.relu), Decoder, "udacity-cvnd", {"encoder-activation": "relu"}),
    # The encoder.
    "tanh": Case(partial(UDACITY, last=torch.tanh), Decoder, "udacity-cvnd", {"encoder-activation": "tanh"}),
    "whole": Case(partial(Encoder, "cnn", {}, cut=None, own=EMBEDDING, bn=False), Decoder, "udacity-cvnd"),
    "whole, all classes": Case(
        partial(Encoder, "net", {"out": (10, EMBEDDING)}, cut=None, own=10, bn=False), Decoder, "udacity-cvnd"
    ),
    "whole, classes unused": Case(partial(Encoder, "resnet", cut=None, own=None), Decoder, "yunjey"),
    "layers": Case(partial(Encoder, "cnn", _CHAIN, between=torch.relu), Decoder, "udacity-cvnd"),
    "layers without activation": Case(
        partial(Encoder, "cnn", _CHAIN), Decoder, "udacity-cvnd", {"head-activation": "none"}
    ),
    # The cells.
    "rnn": Case(UDACITY, partial(Decoder, kind=nn.RNN, names=("word_embeddings", "rnn", "fc_out")), "udacity-cvnd"),
    "rnn with relu": Case(UDACITY, _RELU, "udacity-cvnd", {"rnn-activation": "relu"}),
    "output named logit": Case(Encoder, partial(Decoder, names=("embedding", "lstm", "logit")), "yunjey"),
    "output without bias": Case(Encoder, partial(Decoder, bias=False), "yunjey"),
    # Where the picture enters.
    "word of the picture dropped": Case(Encoder, partial(Decoder, "silent"), "yunjey", {"picture-output": "dropped"}),
    "picture before each word": Case(
        Encoder, partial(Decoder, "before"), "picture-each-step", {"cell-input": "picture-word"}
    ),
    "features at each step": Case(
        partial(Encoder, heads={}, bn=False), partial(Decoder, "each", picture=FEATURES), "picture-each-step"
    ),
    "state and first input": Case(
        Encoder, partial(Decoder, "silent", states=_STATES), "picture-state", {"picture-first": "yes"}
    ),
    "state and each step": Case(Encoder, partial(Decoder, "each", states=_STATES), "picture-each-step"),
    "state of features": Case(
        partial(Encoder, heads={}, bn=False),
        partial(Decoder, "state", nn.GRU, states={"init_hidden": (FEATURES, HIDDEN)}),
        "picture-state",
    ),
    "state through tanh": Case(
        UDACITY, partial(Decoder, "state", states=_STATES, started=torch.tanh), "picture-state",
        {"state-activation": "tanh"},
    ),
    "state of each layer": Case(
        UDACITY,
        partial(Decoder, "state", layers=2, states={"h0": (EMBEDDING, 2 * HIDDEN), "c0": (EMBEDDING, 2 * HIDDEN)}),
        "picture-state",
    ),
    "state of all layers": Case(
        UDACITY, partial(Decoder, "state", layers=2, states=_UNCLEAR), "picture-state"
    ),
    "hidden state alone": Case(
        UDACITY, partial(Decoder, "state", states={"init_h": (EMBEDDING, HIDDEN)}), "picture-state"
    ),
    # Attention.
    "attention with gate": Case(
        MapEncoder, partial(BahdanauDecoder, gated=True), "flickr8k-attention", {"attention-gate": "sigmoid"}
    ),
    "attention with relu": Case(
        MapEncoder, partial(BahdanauDecoder, torch.relu, bias=False), "flickr8k-attention",
        {"attention-activation": "relu"},
    ),
    "attention, picture before word": Case(
        MapEncoder, partial(BahdanauDecoder, before=True), "flickr8k-attention", {"cell-input": "picture-word"}
    ),
}  # fmt: skip


def randomise(module: nn.Module) -> nn.Module:
    """Give a network weights with which its properties matter, in eval mode."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.dim() == 1 and value.is_floating_point():
                value.normal_(1.0 if "bn" in name and name.endswith("weight") else 0.0, 0.1)
            elif value.dim() > 1:
                value.normal_(0, (2.5 / value[0].numel()) ** 0.5)
    return module.eval().requires_grad_(False)


def write(folder: Path, case: Case) -> tuple[nn.Module, nn.Module, list[Path]]:
    encoder, decoder = randomise(case.encoder()), randomise(case.decoder())
    torch.save(encoder.state_dict(), folder / "e.pkl")
    torch.save(decoder.state_dict(), folder / "d.pkl")
    return encoder, decoder, [folder / "e.pkl", folder / "d.pkl"]


def taught(source: CaptionSource, images: Tensor, words: Tensor) -> Tensor:
    """Score words as the source's `teach`."""
    network = source.recognised.network
    assert isinstance(network, CaptionNetwork)
    encoded = network.encode(images)
    assert (encoded.first_log_probs is None) == source.spec.HasField("start_id")
    scores = [] if encoded.first_log_probs is None else [encoded.first_log_probs]
    state = encoded.state
    for word in words.T:
        stepped = network.step(word, state, encoded.features)
        state = stepped.state
        scores.append(stepped.log_probs)
    return torch.stack(scores, 1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())
