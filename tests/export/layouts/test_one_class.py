"""A network of one class: softmax is refused, sigmoid and none export."""

from pathlib import Path

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.networks.resnet import ResNet, ResNetConfig
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner

from .classifier_sources import randomise


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_softmax_over_one_class(activation: str | None, tmp_path: Path) -> None:
    network = randomise(ResNet(ResNetConfig("basic", (1,), planes=8, num_classes=1, stem="small")))
    torch.save(network.state_dict(), tmp_path / "x.pth")
    (tmp_path / "labels.txt").write_text("cat\n")
    command = ["classifier", "x.pth", "--labels", "labels.txt", "--repository", "m", "--name", "x", "--size", "16"]
    command = [str(tmp_path / part) if part in ("x.pth", "labels.txt", "m") else part for part in command]
    stated = ["--activation", activation] if activation else []
    result = CliRunner().invoke(app, [*command, "--no-allow-reduced", *stated])
    if activation == "sigmoid":
        assert result.exit_code == 0, result.output
        assert read_version(tmp_path / "m" / "x" / "1").manifest.classifier.labels == ["cat"]
    else:
        assert result.exit_code == 2
        assert "--activation sigmoid" in result.stderr
        assert not (tmp_path / "m" / "x").exists()
