"""Code of users, as files: classes, functions and instances, and what they answer."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.reference import normalise
from resonnx_server.runtime.model_files.manifest import read_version
from torch import nn
from typer.testing import CliRunner, Result

CODE = '''
import torch
from torch import nn


class Block(nn.Module):
    """Pre-activation with SiLU and GroupNorm: no layout has it."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=2, dilation=2)

    def forward(self, x):
        return x + self.conv(nn.functional.silu(self.norm(x)))


class Net(nn.Module):
    def __init__(self, classes=5, width=8, dropout=0.5, channels=3):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 2, 1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


def make(classes=5, **more):
    return Net(classes, **more)


torch.manual_seed(3)
NET = Net(5).double().train()
'''


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def module(target: object, labels: Path | None, tmp_path: Path, *options: object, size: object = 32) -> Result:
    """Run `resonnx-export module` into `tmp_path`/models, as model `m`."""
    named = ("--labels", labels) if labels else ()
    sized = ("--size", size) if size else ()
    common = ("--repository", tmp_path / "models", "--name", "m", "--no-allow-reduced")
    return run("module", target, *named, *sized, *common, *options)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """net.py with CODE, in a folder of its own."""
    path = tmp_path / "code" / "net.py"
    path.parent.mkdir()
    path.write_text(CODE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A file of five labels."""
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"class{i}\n" for i in range(5)))
    return path


def net(code: Path, seed: int = 0, **arguments: object) -> nn.Module:
    """Return an instance of the file's class Net with weights of the seed, in eval mode."""
    space: dict[str, object] = {"__name__": "expected"}
    exec(compile(code.read_text(), code, "exec"), space)
    torch.manual_seed(seed)
    made = space["Net"](**arguments)  # type: ignore[operator]
    return made.eval().requires_grad_(False)  # type: ignore[no-any-return]


def assert_equal_to(folder: Path, module: nn.Module, grey: bool = False) -> None:
    """Check that a version gives a module's logits, to 1e-4 of the largest."""
    version = read_version(folder)
    recipe = version.manifest.input
    pixels = np.random.default_rng(5).integers(0, 256, (3, recipe.height, recipe.width, 3), np.uint8)
    if grey:
        pixels = np.repeat(pixels[..., :1], 3, axis=3)
    with torch.no_grad():
        x = normalise(pixels, recipe)
        output = module(x[:, :1] if grey else x)
    expected = getattr(output, "logits", output).float().numpy()
    found = open_session(version.files["model.onnx"]).run({"image": pixels}, ["logits"])["logits"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
