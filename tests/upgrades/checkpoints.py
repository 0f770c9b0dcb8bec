"""Small checkpoints of a classifier and of a captioner, the same for each commit that exports them."""

import json
from pathlib import Path

import torch
from torch import nn

from tests.export.layouts.caption_sources.randomness import normalised, pictures, settle
from tests.export.layouts.caption_sources.resnet import Net
from tests.export.layouts.caption_sources.tutorials import PictureEncoder, WordDecoder
from tests.export.layouts.captioners.caption_checkpoints import animate

LABELS = [f"class {number}" for number in range(7)]
WORDS = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{number}" for number in range(28))]
# Side of both models' input, in pixels.
SIDE = 32


def write_classifier(folder: Path) -> list[str]:
    """Write a checkpoint and its labels; return the arguments of `resonnx-export` that export it."""
    torch.manual_seed(0)
    net = Net(4, classes=len(LABELS))
    images = normalised(pictures(32, SIDE, 1))
    settle(net, lambda: net.grid(images))
    torch.save(net.state_dict(), folder / "classifier.pth")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    files = [str(folder / "classifier.pth"), "--labels", str(folder / "labels.json")]
    return ["classifier", *files, "--size", str(SIDE), "--resize-short-side", "36"]


def write_captioner(folder: Path) -> list[str]:
    """Write a checkpoint and its vocabulary; return the arguments of `resonnx-export` that export it."""
    torch.manual_seed(0)
    encoder = PictureEncoder(12, linear="linear", bn="bn", planes=4)
    decoder = WordDecoder(("embed", "lstm", "linear"), nn.LSTM(12, 16, batch_first=True), len(WORDS))
    animate(encoder, decoder, WORDS)
    torch.save(encoder.state_dict(), folder / "encoder.ckpt")
    torch.save(decoder.state_dict(), folder / "decoder.ckpt")
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in WORDS))
    files = [str(folder / "encoder.ckpt"), str(folder / "decoder.ckpt"), "--vocab", str(folder / "vocabulary.txt")]
    return ["captioner", *files, "--size", str(SIDE), "--resize-short-side", "36"]
