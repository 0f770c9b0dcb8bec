"""`classifier --assume` exports the network as stated, and `verify` builds it again from the manifest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.options import read_assume
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.parity import open_session
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner, Result

from .silent_networks import silent


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_export_and_verify(tmp_path: Path) -> None:
    source = silent("dilated, no pool, epsilon")
    torch.save(source.state_dict(), tmp_path / "x.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    common = ("--labels", tmp_path / "labels.txt", "--repository", tmp_path / "m", "--name", "x", "--size", 32)
    stated = ("--assume", "dilation=layer4", "--assume", "pool=none", "--assume", "bn-eps=0.001")
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(check_pictures(image_input(32, resize_short_side=None), 8, seed=1)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    pictures = ("--pictures", tmp_path / "pictures")
    exported = run("classifier", tmp_path / "x.pth", *common, *stated, *pictures, "--no-allow-reduced")
    assert exported.exit_code == 0, exported.output
    assert "given: dilation layer4" in exported.stdout
    assert "assumed: activation relu; --assume activation=VALUE (or silu," in exported.stdout
    # The weights are random, so the statistics are not those of any pictures.
    assert "a hint, not a proof" in exported.stdout
    version = read_version(tmp_path / "m" / "x" / "1")
    images = check_pictures(version.manifest.input, 3, seed=9)
    logits = open_session(version.files["model.onnx"]).run({"image": images}, ["logits"])["logits"]
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    mean, std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (_MEAN, _STD))
    with torch.no_grad():
        expected = source((scaled - mean) / std).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    verified = run("verify", tmp_path / "m" / "x" / "1", "--checkpoint", tmp_path / "x.pth")
    assert verified.exit_code == 0, verified.output
    assert "equal to PyTorch's" in verified.stdout


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_entries() -> None:
    assert read_assume(["pool=none", " activation = leaky_relu:0.1", "pool=none"]) == {
        "pool": "none",
        "activation": "leaky_relu:0.1",
    }


@pytest.mark.parametrize("given", [["pool"], ["=none"], ["pool="], ["pool=none", "pool=max"]])
def test_damaged_entries_are_refused(given: list[str]) -> None:
    with pytest.raises(BadInput, match="--assume"):
        read_assume(given)
