"""Classifiers of every source from a checkpoint file to a real server's answers, held against the source's own.

Logits are served (`--activation none`), so that what is compared is what the network says.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx import Client
from resonnx_export.cli import app
from torch import nn
from typer.testing import CliRunner

from ...conftest import StartServer
from .caption_sources.randomness import pictures
from .classifier_sources import Cifar, HuggingFace, Timm, randomise, wrapped
from .same_answers import HEADS, SIZE, assert_close, prepared, small

# A model's name to its source, what its file holds, and what the user must say.
Layout = tuple[nn.Module, Callable[[nn.Module], object], tuple[str, ...]]


def _state(source: nn.Module) -> object:
    return source.state_dict()


def _itself(source: nn.Module) -> object:
    return source


def _torchvision() -> dict[str, Layout]:
    head, cifar, grey = small(), small(), small()
    head.fc = HEADS["mlp with dropout"]()
    cifar.conv1, cifar.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    grey.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return {
        "lightning": (small(), lambda source: {"state_dict": wrapped(source.state_dict(), "model.")}, ()),
        "pickled": (small(), _itself, ()),
        "head": (head, _state, ()),
        "cifar-stem": (cifar, _state, ()),
        "grey": (grey, _state, ("--mean", "0.45", "--std", "0.25")),
    }


def _timm() -> dict[str, Layout]:
    return {
        "resnetd": (Timm(bottleneck=True, deep=(8, 8), avg=True), _state, ()),
        "seresnet": (Timm(bottleneck=True, deep=None, avg=False, attn="se"), _state, ()),
        "ecaresnetd": (Timm(bottleneck=False, deep=(8, 8), avg=True, attn="eca"), _state, ()),
    }


def _hugging_face() -> dict[str, Layout]:
    strided = HuggingFace(bottleneck=True, downsample_in_bottleneck=True)
    return {
        "basic": (HuggingFace(bottleneck=False), _state, ()),
        "bottleneck": (HuggingFace(bottleneck=True), _state, ()),
        "downsample-in-bottleneck": (strided, _state, ("--stride-in-1x1",)),
    }


def _cifar() -> dict[str, Layout]:
    def parallel(source: nn.Module) -> object:
        return {"net": wrapped(source.state_dict(), "module."), "acc": 95.1}

    return {
        "kuangliu": (Cifar([2, 1, 1, 1], 16, bottleneck=True), parallel, ()),
        "akamaster": (Cifar([3, 3, 3], 16, option_a=True), _state, ()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", [_torchvision, _timm, _hugging_face, _cifar])
@torch.no_grad()
def test_served_logits_are_the_sources(
    family: Callable[[], dict[str, Layout]], tmp_path: Path, start_server: StartServer
) -> None:
    images, expected = pictures(4, SIZE, 5), {}
    for name, (source, content, options) in family().items():
        randomise(source)
        torch.save(content(source), tmp_path / "checkpoint.pth")
        if name == "grey":
            grey = np.stack([np.asarray(Image.fromarray(image).convert("L"))[:, :, None] for image in images])
            expected[name] = source(prepared(grey, (0.45,), (0.25,)))
        else:
            expected[name] = source(prepared(images))
        labels = [f"label {i}" for i in range(expected[name].shape[1])]
        (tmp_path / "labels.txt").write_text("\n".join(labels))
        command = ["classifier", tmp_path / "checkpoint.pth", "--labels", tmp_path / "labels.txt", "--name", name]
        command += ["--repository", tmp_path / "models", "--size", SIZE, "--stretch", "--recipe", "torchvision-v1"]
        command += ["--activation", "none", "--no-allow-reduced", *options]
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert result.exit_code == 0, result.output
    with start_server(tmp_path / "models", "--strict") as server, Client(server.grpc) as client:
        for name, logits in expected.items():
            found = np.zeros(logits.shape, np.float32)
            for row, image in enumerate(images):
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                for prediction in client.classify(file.getvalue(), name, top_k=logits.shape[1]).predictions:
                    found[row, int(prediction.label.removeprefix("label "))] = prediction.score
            assert_close(found, logits)
