"""Classifiers by the command: options, recipes, what inspect and verify say, and modules in memory."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.errors import BadInput
from resonnx_export.module import export_module
from resonnx_export.options import Target
from resonnx_export.pictures.recipe import InputChanges, Size
from resonnx_export.pictures.recipes import RECIPES, RecipeChoice, RecipeName
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from torch import Tensor, nn

from ..conftest import LABELS
from ..networks.torchvision_oracle import get_model
from .classifier_sources import randomise
from .same_answers import SIZE, assert_close, prepared, run, saved, small


def test_grey_pictures(labels_file: Path, tmp_path: Path) -> None:
    source = small()
    source.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    source = randomise(source)
    path = saved(tmp_path / "mnist.pth", source.state_dict())
    common = ("classifier", path, "--labels", labels_file, "--repository", tmp_path / "m", "--name", "grey")
    refused = run(*common, "--size", SIZE)
    assert refused.exit_code == 2
    assert "one number" in refused.stderr
    result = run(*common, "--size", SIZE, "--mean", "0.1307", "--std", "0.3081", "--no-allow-reduced")
    assert result.exit_code == 0, result.output
    assert "convert('L')" in result.stdout
    version = read_version(tmp_path / "m" / "grey" / "1")
    images = check_pictures(version.manifest.input, 4, seed=9)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L"))[:, :, None] for image in images])
    with torch.no_grad():
        reference = source(prepared(grey, (0.1307,), (0.3081,)))
    logits = open_session(version.files["model.onnx"]).run({"image": images}, ["logits"])["logits"]
    assert_close(logits, reference)


@pytest.mark.parametrize("activation", ["sigmoid", pytest.param("none", marks=pytest.mark.slow)])
def test_activation(activation: str, classifier_file: Path, labels_file: Path, tmp_path: Path) -> None:
    common = ("--labels", labels_file, "--repository", tmp_path / "m", "--name", "a", "--size", 32)
    result = run("classifier", classifier_file, *common, "--activation", activation, "--no-allow-reduced")
    assert result.exit_code == 0, result.output
    version = read_version(tmp_path / "m" / "a" / "1")
    assert version.manifest.classifier.activation == pb.ClassifierSpec.Activation.Value(
        f"ACTIVATION_{activation.upper()}"
    )
    images = check_pictures(version.manifest.input, 4, seed=9)
    outputs = open_session(version.files["model.onnx"]).run({"image": images})
    logits = outputs["logits"]
    expected = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else logits
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)


def test_the_layout_suggests_a_recipe_and_options_override_it() -> None:
    for layout, name in {
        "torchvision": "torchvision-v1",
        "timm": "timm-a1",
        "hugging-face": "hf",
        "cifar-kuangliu": "cifar",
        "cifar-weiaicunzai": "cifar",
        "cifar-akamaster": "cifar-imagenet",
    }.items():
        recipe, told, _ = RecipeChoice().for_layout(layout)
        assert recipe == RECIPES[name]
        assert f"(recipe {name})" in told
    changes = InputChanges(size=Size(288, 288), mean=(0.5,) * 3)
    recipe, told, _ = RecipeChoice("torchvision-v2", changes).for_layout("torchvision")
    assert (recipe.width, recipe.resize_short_side, list(recipe.mean)) == (288, 298, [0.5] * 3)
    assert "recipe torchvision-v2 with --" in told
    assert get_args(RecipeName) == tuple(RECIPES)


def test_inspect_tells_the_nearest(tmp_path: Path) -> None:
    state = get_model("resnet18").state_dict()
    for key in ("bn1.weight", "layer1.0.conv1.weight"):
        del state[key]
    result = run("inspect", saved(tmp_path / "x.pth", state))
    assert result.exit_code == 2
    assert "nearest: resnet18 (2 missing, 0 unexpected)" in result.stderr
    described = run("inspect", saved(tmp_path / "x.pth", get_model("resnet50").state_dict()))
    assert described.exit_code == 0
    for said in ("a ResNet-50\n", "1000 classes", "25,557,032", "--stride-in-1x1", "recipe torchvision-v1"):
        assert said in described.stdout


class Plain(nn.Module):
    """No ResNet, and a head under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.top = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.body(x))  # type: ignore[no-any-return]


def test_a_module_in_memory(tmp_path: Path) -> None:
    module = randomise(Plain())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    exported = export_module(module, torch.zeros(2, 3, 32, 32), LABELS, Target(tmp_path / "m", "plain"))
    assert (exported.manifest.source.layout, exported.manifest.source.architecture) == ("module", "Plain")
    assert exported.manifest.classifier.feature_size == 8
    assert exported.manifest.verified_against == pb.REFERENCE_USER_CODE
    version = read_version(exported.folder)
    images = check_pictures(version.manifest.input, 3, seed=5)
    logits = open_session(version.files["model.onnx"]).run({"image": images}, ["logits"])["logits"]
    with torch.no_grad():
        assert_close(logits, module(prepared(images)))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("module", "example", "said"),
    [
        (nn.Conv2d(3, 7, 1), torch.zeros(2, 3, 8, 8), "logits"),
        (Plain(), torch.zeros(1, 3, 8, 8), "two or more"),
        (Plain(), torch.zeros(2, 3, 8), "two or more"),
    ],
)
def test_a_module_that_is_no_classifier(module: nn.Module, example: Tensor, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        export_module(module, example, LABELS, Target(tmp_path / "m", "x"))
    assert not (tmp_path / "m").exists()


def test_verify(classifier_file: Path, labels_file: Path, tmp_path: Path) -> None:
    common = ("--labels", labels_file, "--repository", tmp_path / "m", "--name", "v", "--size", 32)
    assert run("classifier", classifier_file, *common).exit_code == 0
    folder = tmp_path / "m" / "v" / "1"
    verified = run("verify", folder, "--checkpoint", classifier_file)
    assert verified.exit_code == 0, verified.output
    assert "CPUExecutionProvider/fp32" in verified.stdout
    assert "equal to PyTorch's" in verified.stdout
    other = saved(tmp_path / "other.pth", load_checkpoint(classifier_file).state_dict)
    refused = run("verify", folder, "--checkpoint", other)
    assert refused.exit_code == 2
    assert re.search("this version was exported from other files", refused.stderr)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    damaged = run("verify", folder)
    assert damaged.exit_code == 2
    assert "damaged" in damaged.stderr
    assert run("verify", tmp_path).exit_code == 2
    assert f"give a version's, {folder}" in run("verify", folder.parent).stderr
