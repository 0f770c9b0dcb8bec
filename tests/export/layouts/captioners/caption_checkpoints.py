"""Random checkpoints in the sources' own files."""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...caption_exports import (
    RUOTIANLUO,
    SIZE,
    YUNJEY,
)
from ..caption_sources.randomness import centre, enliven, normalised, pictures, settle
from ..caption_sources.resnet import Net
from ..caption_sources.ruotianluo import Captioner, Sizes
from ..caption_sources.tutorials import PictureEncoder, StackedDecoder, WordDecoder


def animate(encoder: PictureEncoder, decoder: WordDecoder | StackedDecoder, words: Sequence[str]) -> None:
    """Make random weights write varied captions."""
    images = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(images))
    projection = encoder.get_submodule(encoder.order[0])
    assert isinstance(projection, nn.Linear)
    if len(encoder.order) == 1:
        centre(projection, encoder.resnet(images).flatten(1))
    enliven(decoder, decoder.output, lambda: decoder.sample(encoder(images)), words.index("<end>"))
    decoder.eval()


def write_tutorial(folder: Path, rnn: nn.RNNBase | None = None, *, file_of_both: bool = False) -> list[Path]:
    """Write an untrained yunjey captioner, as two files or as one state_dict with prefixes, wrapped by DataParallel."""
    encoder = PictureEncoder(24, linear="linear", bn="bn")
    decoder = WordDecoder(("embed", "lstm", "linear"), rnn or nn.LSTM(24, 32, batch_first=True), len(YUNJEY))
    halves = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    if file_of_both:
        flat = {f"module.{half}.{key}": value for half, state in halves.items() for key, value in state.items()}
        torch.save(flat, folder / "both.pth")
        return [folder / "both.pth"]
    for half, state in halves.items():
        torch.save(state, folder / f"{half}.ckpt")
    return [folder / "encoder.ckpt", folder / "decoder.ckpt"]


def self_critical(
    folder: Path, kind: str, *, caffe: bool, options: dict[str, object] | None = None, **more: int | str
) -> tuple[Net, Captioner, list[Path], Path]:
    """Write model-best.pth, resnet101.pth and infos."""
    net = Net(deep=True, caffe=caffe)
    model = Captioner(kind, Sizes(len(RUOTIANLUO), net.fc.in_features), **more)
    images = normalised(pictures(32, SIZE, 1))
    settle(net, lambda: net.grid(images))
    settle(model, lambda: model.sample(net.grid(images), 2))
    if kind in ("show_tell", "fc", "newfc"):
        centre(model.fc_embed if kind == "newfc" else model.img_embed, net.grid(images).mean((2, 3)))
    enliven(model, model.logit, lambda: model.sample(net.grid(images), 12), 0)
    torch.save(model.state_dict(), folder / "model-best.pth")
    torch.save(net.state_dict(), folder / "resnet101.pth")
    told = {"caption_model": kind, "seq_length": 16, "max_length": 20, "input_att_dir": "data/cocotalk_att"}
    infos = {
        "iter": 7,
        "opt": argparse.Namespace(**{**told, **(options or {})}),
        "vocab": {str(i): word for i, word in enumerate(RUOTIANLUO) if i},
    }
    (folder / "infos_x-best.pkl").write_bytes(pickle.dumps(infos, protocol=2))
    files = [folder / "model-best.pth", folder / "resnet101.pth"]
    return net, model, files, folder / "infos_x-best.pkl"
