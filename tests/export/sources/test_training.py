"""Names of classes that training code stores beside the weights."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.networks.resnet import ResNet
from resonnx_export.sources.source import read_source
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner

NAMES = ("cat", "dog", "bird")
NUMBERS = {"dog": 1, "cat": 0, "bird": 2}


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"class_to_idx": NUMBERS}, "class_to_idx"),
        ({"idx_to_class": {0: "cat", 1: "dog", 2: "bird"}}, "idx_to_class"),
        ({"classes": list(NAMES), "labels": torch.zeros(3)}, "classes"),
        ({"hyper_parameters": {"lr": 0.1, "class_names": NAMES}}, "hyper_parameters.class_names"),
        (
            {"hyper_parameters": {"hparams": argparse.Namespace(classes=list(NAMES))}},
            "hyper_parameters.hparams.classes",
        ),
        ({"args": argparse.Namespace(lr=1, class_to_idx=NUMBERS)}, "args.class_to_idx"),
        # mmcls and mmpretrain.
        ({"meta": {"CLASSES": NAMES, "epoch": 3}}, "meta.CLASSES"),
        ({"meta": {"dataset_meta": {"classes": NAMES}}, "message_hub": {}}, "meta.dataset_meta.classes"),
        ({"class_to_idx": {"cat": 1, "dog": 1}, "classes": list(NAMES)}, "classes"),
        ({"labels": [0, 1, 2], "classes": 3, "meta": {"CLASSES": None}}, ""),
        ({}, ""),
    ],
)
def test_labels_beside_the_weights(beside: dict[str, Any], place: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 2)}, **beside}, tmp_path / "m.pth")
    recorded = read_source(tmp_path / "m.pth").recorded
    assert recorded.labels_from == place
    assert (recorded.labels.names if recorded.labels else ()) == (NAMES if place else ())


def test_they_are_the_labels_of_the_export(network: ResNet, tmp_path: Path) -> None:
    numbers = {f"kind {number}": number for number in range(network.num_classes)}
    torch.save({"state_dict": network.state_dict(), "class_to_idx": numbers}, tmp_path / "m.pth")
    command = ["classifier", str(tmp_path / "m.pth"), "--repository", str(tmp_path / "models"), "--name", "m"]
    result = CliRunner().invoke(app, [*command, "--size", "32"])
    assert result.exit_code == 0, result.output
    assert "labels: 7 names of class_to_idx" in result.stdout
    assert list(read_version(tmp_path / "models" / "m" / "1").manifest.classifier.labels) == list(numbers)
