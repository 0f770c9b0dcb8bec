"""`resonnx-export module timm:NAME` and the like: the libraries' own networks, with their recipes and labels.

layouts/test_timm_names.py compares all of timm's ResNets.
"""

import json
from pathlib import Path

import pytest
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version

from ..layouts.classifier_sources import randomise
from ..networks import torchvision_oracle
from .conftest import assert_equal_to, run

timm = pytest.importorskip("timm")
SMALL = {"layers": (1, 1, 1, 1), "channels": (16, 16, 16, 32)}


def export(target: str, tmp_path: Path, *options: object) -> tuple[Path, str]:
    """Run the command and return the version's folder and the output."""
    done = run("module", target, "--repository", tmp_path / "models", "--name", "m", "--no-allow-reduced", *options)
    assert done.exit_code == 0, done.output
    return tmp_path / "models" / "m" / "1", done.stdout


def test_an_anti_aliased_network_with_timms_recipe(tmp_path: Path) -> None:
    """Its keys are those of the network that is not anti-aliased."""
    made = randomise(timm.create_model("resnetaa34d", num_classes=5, **SMALL))
    plain = timm.create_model("resnet34d", num_classes=5, **SMALL)
    assert made.state_dict().keys() == plain.state_dict().keys()
    torch.save(made.state_dict(), tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    given = ("--checkpoint", tmp_path / "w.pth", "--labels", tmp_path / "labels.txt", "--size", 64)
    arguments = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    # The number of classes is that of the labels.
    folder, printed = export("timm:resnetaa34d", tmp_path, *given, *arguments)
    assert_equal_to(folder, made)
    manifest = read_version(folder).manifest
    assert (manifest.source.layout, manifest.source.architecture) == ("timm", "resnetaa34d")
    assert manifest.input.filter == pb.ImageInput.FILTER_BICUBIC
    assert "timm's pretrained_cfg of resnetaa34d" in printed
    # They are the published weights', perhaps not these: all but the size stay assumptions.
    assert not any(each.confirmed for each in manifest.assumptions)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    config = {"num_classes": 3, "input_size": (3, 64, 64), "crop_pct": 0.5, "mean": (0.5,) * 3}
    small = SMALL | {"channels": [16] * 4, "layers": [1] * 4}
    made = randomise(timm.create_model("test_resnet", num_classes=3, pretrained_cfg_overlay=config, **small))
    folder = tmp_path / "saved"
    more = {"label_names": ["a", "b", "c"], "model_args": small}
    timm.models.save_for_hf(made, folder, model_config=more, safe_serialization=True)
    version, _ = export(f"timm:{folder}", tmp_path)
    assert_equal_to(version, made)
    manifest = read_version(version).manifest
    assert list(manifest.classifier.labels) == ["a", "b", "c"]
    assert (manifest.input.height, manifest.input.resize_short_side) == (64, 128)
    assert list(manifest.source.file_names) == ["model.safetensors"]
    assert all(each.confirmed for each in manifest.assumptions)


@pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_folder_of_transformers(sharded: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label={0: "x", 1: "y"}
    )
    made = randomise(transformers.ResNetForImageClassification(config))
    folder = tmp_path / "saved"
    made.save_pretrained(folder, max_shard_size=4000 if sharded else "1GB")
    processor = {"size": {"height": 48, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    version, _ = export(f"transformers:{folder}", tmp_path)
    assert_equal_to(version, made)
    manifest = read_version(version).manifest
    assert list(manifest.classifier.labels) == ["x", "y"]
    assert (manifest.input.height, manifest.input.width) == (48, 32)
    assert list(manifest.input.std) == [0.25] * 3
    assert (len(manifest.source.file_names) > 1) == sharded


def test_a_name_of_torchvision(tmp_path: Path) -> None:
    made = randomise(torchvision_oracle.get_model("squeezenet1_1", num_classes=3))
    torch.save(made.state_dict(), tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    given = ("--checkpoint", tmp_path / "w.pth", "--labels", tmp_path / "labels.txt", "--size", 64)
    version, _ = export("torchvision:squeezenet1_1", tmp_path, *given)
    assert_equal_to(version, made)


LIGHTNING = """
import torch
from pytorch_lightning import LightningModule


class Lit(LightningModule):
    def __init__(self, width, classes=3, transform=None):
        super().__init__()
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3), torch.nn.SELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(width, classes),
        )
        self.loss = torch.nn.CrossEntropyLoss(torch.ones(classes))

    def forward(self, x):
        return self.model(x)
"""


def test_a_class_of_lightning_with_the_checkpoints_hyper_parameters(code: Path, labels: Path, tmp_path: Path) -> None:
    """The class LightningModule is a stand-in: Lightning is not installed for tests."""
    (code.parent / "pytorch_lightning.py").write_text("from torch.nn import Module as LightningModule\n")
    path = code.with_name("lit.py")
    path.write_text(LIGHTNING)
    space: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(code.parent)
        exec(LIGHTNING, space)
        made = randomise(space["Lit"](6, 5))  # type: ignore[operator]
        content = {
            "state_dict": made.state_dict(),
            "hyper_parameters": {"width": 6, "classes": 5, "lr": 0.1, "transform": torch.nn.ReLU()},
            "pytorch-lightning_version": "2.5.0",
        }
        torch.save(content, tmp_path / "m.ckpt")
        given = ("--checkpoint", tmp_path / "m.ckpt", "--labels", labels, "--size", 32)
        version, printed = export(f"lightning:{path}:Lit", tmp_path, *given)
        refused = run("module", f"lightning:{code}:make", "--repository", tmp_path, "--name", "x", *given)
    assert_equal_to(version, made)
    assert "width=6, classes=5" in printed
    assert "were not read: transform" in printed
    assert "no subclass of LightningModule" in refused.stderr


def test_what_libraries_do_not_have(tmp_path: Path) -> None:
    for target, said in (
        ("timm:resnet10x", "no model 'resnet10x'; it has resnet10t"),
        ("timm:resnet18", "random weights"),
        ("torchvision:resnet10x", "no model 'resnet10x'"),
        (f"transformers:{tmp_path}", "no config.json"),
        ("transformers:someone/something", "nothing is downloaded"),
        ("lightning:net:Net", "pip install"),
    ):
        checkpoint = () if "resnet18" in target else ("--checkpoint", tmp_path / "none.pth")
        refused = run("module", target, "--repository", tmp_path / "models", "--name", "m", *checkpoint)
        assert refused.exit_code == 2, refused.output
        assert said in refused.stderr
