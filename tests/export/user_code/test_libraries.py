"""`resonnx-export module timm:NAME` and the like: the libraries' own networks, with their recipes and labels."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.pictures.recipe import image_input
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.reference import normalise
from resonnx_export.user_code.network import as_network, pictures
from resonnx_export.user_code.opened import Code, open_code
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from torch import nn

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


def equal(name: str, arguments: dict[str, object], tmp_path: Path, size: int = 64) -> nn.Module:
    """Check that the ONNX graph of timm:NAME, loaded from a file, gives timm's logits."""
    made = randomise(timm.create_model(name, **arguments))
    torch.save({"state_dict": made.state_dict()}, tmp_path / "w.pth")
    opened = open_code(Code(f"timm:{name}", arguments, tmp_path / "w.pth"), None)
    recipe = image_input(size, resize_short_side=None)
    network = as_network(opened.module, pictures(size, size), made.num_classes, "softmax")
    pixels = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    found = open_session(trace_classifier(network, recipe)).run({"image": pixels}, ["logits"])["logits"]
    with torch.no_grad():
        expected = made(normalise(pixels, recipe)).numpy()
        exact = copy.deepcopy(made).double()(normalise(pixels, recipe).double()).numpy()
    # Random weights of ecaresnet101d_pruned amplify the rounding of PyTorch's own float32 to 1.9e-4.
    rounding = np.abs(exact - expected).max()
    assert np.abs(found - expected).max() <= max(1e-4 * np.abs(expected).max(), 2 * rounding)
    return made  # type: ignore[no-any-return]


_SLOW = ("resnet10t", "resnetblur18", "seresnextaa101d_32x8d")


@pytest.mark.parametrize(
    "name",
    [
        "resnetaa50d",
        "ecaresnext26t_32x4d",
        "resnet50_gn",
        *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW),
    ],
)
def test_names_of_timm(name: str, tmp_path: Path) -> None:
    grouped = {"cardinality": 2} if "next" in name else {}
    equal(name, {"layers": (1, 1, 1, 1), "channels": (32,) * 4, "num_classes": 5} | grouped, tmp_path, size=32)


def _up_to(parameters: int) -> list[str]:
    """Return timm's ResNets of at most so many parameters, the smallest first."""
    with torch.device("meta"):
        sizes = {name: timm.create_model(name) for name in timm.list_models(module="resnet")}
    counted = {name: sum(each.numel() for each in model.parameters()) for name, model in sizes.items()}
    return sorted((name for name, count in counted.items() if count <= parameters), key=lambda name: counted[name])


LARGEST = 120_000_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_name_of_timm(tmp_path: Path) -> None:
    names = _up_to(LARGEST)
    assert len(names) >= 70
    for name in names:
        equal(name, {}, tmp_path)


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
            "hyper_parameters": {"width": 6, "classes": 5, "lr": 0.1, "transform": nn.ReLU()},
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
