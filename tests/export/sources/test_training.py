"""What training code stores beside the weights: names of classes, mean and deviation."""

import argparse
import collections
import itertools
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.checkpoints.files import read_tree
from resonnx_export.cli import app
from resonnx_export.networks.resnet import ResNet
from resonnx_export.pictures.recipes import RecipeChoice
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


MMPRETRAIN = """
_base_ = ['../_base_/models/resnet50.py']
data_preprocessor = dict(
    num_classes=3,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)
model = dict(type='ImageClassifier', backbone=dict(depth=50), data_preprocessor=data_preprocessor)
work_dir = __import__('os').getcwd()
"""
MMCLS = "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)\n"


@pytest.mark.parametrize(
    ("meta", "order", "mean"),
    [
        ({"cfg": MMPRETRAIN}, "rgb", 123.675),
        ({"config": MMCLS}, "bgr", 103.53),
        ({"cfg": {"model": {"data_preprocessor": {"mean": (5, 5, 5), "std": (2, 2, 2), "to_rgb": True}}}}, "rgb", 5),
        # Two that differ; no text in Python; a deviation of 0; no normalisation.
        ({"cfg": MMPRETRAIN + MMCLS}, "", 0),
        ({"cfg": "data_preprocessor = dict(mean=[1,"}, "", 0),
        ({"cfg": "(" * 100_000}, "", 0),
        ({"cfg": MMCLS.replace("1.0", "0.0")}, "", 0),
        ({"cfg": MMCLS.replace("103.53", "float('nan')")}, "", 0),
        ({"cfg": "model = dict()"}, "", 0),
    ],
)
def test_the_normalisation_of_openmmlab(meta: dict[str, Any], order: str, mean: float, tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 2)}, "meta": meta}, tmp_path / "m.pth")
    told = read_source(tmp_path / "m.pth").recorded.pictures
    assert (told is None) == (not order)
    if told is not None:
        assert (told.changes.channel_order, told.changes.scale) == (order, "255")
        assert told.changes.mean is not None
        assert told.changes.mean[0] == mean
        chosen = RecipeChoice(told=told).for_layout("torchvision")
        assert f"({told.source})" in chosen.note
        confirmed = {each.name: each.confirmed for each in chosen.assumptions}
        assert confirmed == {"resizing": False, "normalisation": True, "channel-order": True, "scale": True}


def _stored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what makes objects of classes of any path, until the patch is undone."""

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

    return made


def test_what_fastais_learner_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """learn.export pickles the learner, with its loaders and their transforms, under these names of classes."""
    made = _stored(monkeypatch)
    numbers = collections.defaultdict(int, NUMBERS)
    vocabulary = made(
        "fastai.data.transforms.CategoryMap", items=made("fastcore.foundation.L", items=list(NAMES)), o2i=numbers
    )
    transform = made("fastai.data.transforms.Categorize", vocab=vocabulary, add_na=False)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.5, 0.25, 0.125), (0.25, 0.25, 0.5)))
    batch = made("fasttransform.transform.Pipeline", fs=[made("fastai.data.transforms.Normalize", mean=mean, std=std)])
    loader = made(
        "fastai.data.core.TfmdDL", dataset=made("fastai.data.core.Datasets", tls=[transform]), after_batch=batch
    )
    loaders = made("fastai.data.core.DataLoaders", loaders=[loader, loader])
    torch.save(made("fastai.learner.Learner", model=nn.Linear(2, 3), dls=loaders), tmp_path / "export.pkl")
    monkeypatch.undo()
    recorded = recorded_in(read_tree(tmp_path / "export.pkl")[0])
    assert recorded.labels is not None
    assert (recorded.labels.names, recorded.labels_from) == (NAMES, "vocab of the pickled learner")
    assert recorded.pictures is not None
    changes = recorded.pictures.changes
    assert (changes.mean, changes.std) == ((0.5, 0.25, 0.125), (0.25, 0.25, 0.5))
    assert (changes.scale, changes.channel_order) == ("1", "rgb")


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
