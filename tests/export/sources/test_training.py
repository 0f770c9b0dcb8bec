"""Names of classes that training code stores beside the weights."""

import argparse
import collections
import itertools
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.checkpoints.files import read_tree
from resonnx_export.cli import app
from resonnx_export.networks.resnet import ResNet
from resonnx_export.sources.source import read_source
from resonnx_export.sources.training import recorded_in
from resonnx_server.runtime.model_files.manifest import read_version
from torch import nn
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


def test_the_vocabulary_of_fastais_learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """learn.export pickles the learner, with its loaders and their transforms, under these names of classes."""

    def made(path: str, **attributes: Any) -> Any:
        module, _, name = path.rpartition(".")
        for parent in itertools.accumulate(module.split("."), "{}.{}".format):
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        holder = sys.modules[module]
        kind = type(name, (), {"__module__": module})
        monkeypatch.setattr(holder, name, kind, raising=False)
        item = kind()
        item.__dict__.update(attributes)
        return item

    numbers = collections.defaultdict(int, NUMBERS)
    vocabulary = made(
        "fastai.data.transforms.CategoryMap", items=made("fastcore.foundation.L", items=list(NAMES)), o2i=numbers
    )
    transform = made("fastai.data.transforms.Categorize", vocab=vocabulary, add_na=False)
    loader = made("fastai.data.core.TfmdDL", dataset=made("fastai.data.core.Datasets", tls=[transform]))
    loaders = made("fastai.data.core.DataLoaders", loaders=[loader, loader])
    torch.save(made("fastai.learner.Learner", model=nn.Linear(2, 3), dls=loaders), tmp_path / "export.pkl")
    monkeypatch.undo()
    recorded = recorded_in(read_tree(tmp_path / "export.pkl")[0])
    assert recorded.labels is not None
    assert (recorded.labels.names, recorded.labels_from) == (NAMES, "vocab of the pickled learner")


def test_they_are_the_labels_of_the_export(network: ResNet, tmp_path: Path) -> None:
    numbers = {f"kind {number}": number for number in range(network.num_classes)}
    torch.save({"state_dict": network.state_dict(), "class_to_idx": numbers}, tmp_path / "m.pth")
    command = ["classifier", str(tmp_path / "m.pth"), "--repository", str(tmp_path / "models"), "--name", "m"]
    result = CliRunner().invoke(app, [*command, "--size", "32"])
    assert result.exit_code == 0, result.output
    assert "labels: 7 names of class_to_idx" in result.stdout
    assert list(read_version(tmp_path / "models" / "m" / "1").manifest.classifier.labels) == list(numbers)


def test_contents_that_a_file_holds_many_times_are_read_once() -> None:
    names = [*map(str, range(20_000)), ""]
    tree: dict[str, Any] = dict.fromkeys(("class_to_idx", "classes", "CLASSES", "class_names", "labels"), names)
    tree |= dict.fromkeys(("hyper_parameters", "hparams", "meta", "config", "cfg", "args", "opt", "params"), tree)
    started = time.process_time()
    assert recorded_in(tree).labels is None
    assert time.process_time() - started < 1


def test_names_do_not_command_the_terminal(tmp_path: Path, network: ResNet) -> None:
    names = [f"\x1b]0;owned\x07{number}" for number in range(network.num_classes)]
    torch.save({"model": network.state_dict(), "classes": names, "\x1b[2J": 1}, tmp_path / "m.pth")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.pth")])
    assert result.exit_code == 0, result.output
    assert "owned" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())
