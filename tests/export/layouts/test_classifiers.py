"""Classifiers of public sources: recognised from keys and shapes alone, and the graph says what the source says.

Each checkpoint is written as its source writes it; the answers are held against the source's own forward pass
(classifier_sources.py, or torchvision itself).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.module import export_module
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.options import Target
from resonnx_export.pictures.recipe import InputChanges, Size, image_input
from resonnx_export.pictures.recipes import RECIPES, RecipeChoice, RecipeName
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from resonnx_server.runtime.pictures.images import Pixels
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ..conftest import LABELS
from ..networks.torchvision_oracle import get_model
from .classifier_sources import Cifar, HuggingFace, Timm, randomise, wrapped

TEN = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
# Of each kind of block and width one.
ANSWERED = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
SIZE = 48
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepared(images: Pixels, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Scale and normalise as torchvision's ToTensor and Normalize."""
    pictures = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float().div(255) for image in images])
    return (pictures - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def assert_close(found: np.ndarray[Any, Any], reference: Tensor) -> None:
    expected = reference.numpy()
    assert found.shape == expected.shape
    assert np.ptp(expected) > 1e-2 * np.abs(expected).max(), "the answers do not depend on the picture"
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def recognised(path: Path, *, stride_in_1x1: bool = False) -> RecognisedCheckpoint:
    return recognise_classifier(load_checkpoint(path).state_dict, stride_in_1x1=stride_in_1x1)


def assert_same(
    path: Path, source: nn.Module, *, stride_in_1x1: bool = False, traced: bool = True
) -> RecognisedCheckpoint:
    """Compare the logits of the checkpoint's graph, or of its network only, with the source's."""
    found = recognised(path, stride_in_1x1=stride_in_1x1)
    assert isinstance(found.network, ClassifierNetwork)
    recipe = image_input(SIZE, resize_short_side=None)
    images = check_pictures(recipe, 3, seed=1)
    with torch.no_grad():
        expected = source(prepared(images))
        if traced:
            session = open_session(trace_classifier(found.network, recipe))
            assert_close(session.run({"image": images}, ["logits"])["logits"], expected)
        else:
            assert_close(found.network(prepared(images)).numpy(), expected)
    return found


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_torchvisions_own_ten_are_told_apart() -> None:
    with torch.device("meta"):
        sources = {name: get_model(name, num_classes=23).state_dict() for name in TEN}
    for name, state_dict in sources.items():
        state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state_dict.items()}
        found = recognise_classifier(state)
        assert (found.layout, found.architecture) == ("torchvision", name)


@pytest.mark.parametrize(
    "name", [name if name in ANSWERED else pytest.param(name, marks=pytest.mark.slow) for name in TEN]
)
def test_torchvisions_own_ten(name: str) -> None:
    with torch.device("meta"):
        source = get_model(name, num_classes=23)
    source = randomise(source.to_empty(device="cpu"))
    pictures = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(recognise_classifier(source.state_dict()).network(pictures).numpy(), source(pictures))


Source = Callable[[], nn.Module]
TIMM: dict[str, Source] = {
    "resnetd bottleneck": lambda: Timm(bottleneck=True, deep=(8, 8), avg=True),
    "resnetd basic": lambda: Timm(bottleneck=False, deep=(8, 8), avg=True),
    "resnetc": lambda: Timm(bottleneck=True, deep=(8, 8), avg=False),
    "resnett": lambda: Timm(bottleneck=False, deep=(6, 8), avg=True),
    "seresnet": lambda: Timm(bottleneck=True, deep=None, avg=False, attn="se"),
    "seresnetd basic": lambda: Timm(bottleneck=False, deep=(8, 8), avg=True, attn="se"),
    "ecaresnetd": lambda: Timm(bottleneck=True, deep=(8, 8), avg=True, attn="eca"),
}


@pytest.mark.parametrize(
    "variant", [name if i % 4 == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(TIMM)]
)
def test_timm(variant: str, tmp_path: Path) -> None:
    source = randomise(TIMM[variant]())
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    found = assert_same(tmp_path / "model.safetensors", source)
    assert found.layout == "timm"
    assert found.architecture.startswith(f"{variant.split()[0]}_")
    assert not found.notes
    # timm has no such option.
    assert "stride-in" not in {each.name for each in found.assumptions}


def test_timms_names() -> None:
    source = get_model("resnet50").state_dict()
    for block in [key.removesuffix("conv1.weight") for key in source if key.endswith(".conv1.weight")]:
        channels = source[f"{block}bn3.weight"].numel()
        for name, outputs, inputs in (("fc1", channels // 16, channels), ("fc2", channels, channels // 16)):
            source[f"{block}se.{name}.weight"] = torch.zeros(outputs, inputs, 1, 1)
            source[f"{block}se.{name}.bias"] = torch.zeros(outputs)
    assert recognise_classifier(source).architecture == "seresnet50"


def test_hugging_face(tmp_path: Path) -> None:
    source = randomise(HuggingFace(bottleneck=False))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    assert assert_same(tmp_path / "model.safetensors", source, traced=False).layout == "hugging-face"


@pytest.mark.parametrize("in_bottleneck", [False, True])
def test_where_the_stride_is(in_bottleneck: bool, tmp_path: Path) -> None:
    source = randomise(HuggingFace(bottleneck=True, downsample_in_bottleneck=in_bottleneck))
    path = saved(tmp_path / "pytorch_model.bin", source.state_dict())
    found = assert_same(path, source, stride_in_1x1=in_bottleneck, traced=False)
    assert found.architecture.endswith("_stride_in_1x1") == in_bottleneck
    (stride,) = [each for each in found.assumptions if each.option == "--stride-in-1x1"]
    assert stride.confirmed == in_bottleneck
    assert stride.value == ("1x1" if in_bottleneck else "3x3")


def test_stride_in_1x1_of_basic_blocks() -> None:
    with pytest.raises(BadInput, match="bottleneck"):
        recognise_classifier(get_model("resnet18").state_dict(), stride_in_1x1=True)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_kuangliu(bottleneck: bool, tmp_path: Path) -> None:
    source = randomise(Cifar([2, 1, 1, 1], 16, bottleneck=bottleneck))
    state = {"net": wrapped(source.state_dict(), "module."), "acc": 95.1, "epoch": 7}
    found = assert_same(saved(tmp_path / "ckpt.pth", state), source, traced=False)
    assert found.layout == "cifar-kuangliu"


@pytest.mark.parametrize("option_a", [False, True])
def test_akamaster(option_a: bool, tmp_path: Path) -> None:
    source = randomise(Cifar([3, 3, 3], 16, option_a=option_a))
    state = {"state_dict": wrapped(source.state_dict(), "module."), "best_prec1": 91.7}
    found = assert_same(saved(tmp_path / "resnet20.th", state, legacy=True), source, traced=option_a)
    assert found.layout == "cifar-akamaster"
    assert (found.architecture == "resnet20") == option_a


def small(**options: Any) -> Any:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], **({"num_classes": 7} | options))


def wrappers(state: dict[str, Tensor]) -> dict[str, object]:
    return {
        "bare": state,
        "data parallel": wrapped(state, "module."),
        "compiled": {"model": wrapped(state, "_orig_mod.")},
        "both": {"model_state_dict": wrapped(state, "module.", "_orig_mod.")},
        "lightning": {"state_dict": wrapped(state, "model."), "pytorch-lightning_version": "2.1"},
        "backbone": wrapped(state, "model.", "backbone."),
        "its head apart": {k if k.startswith("fc.") else f"backbone.{k}": v for k, v in state.items()},
        "ema": {"model_ema": {"n_averaged": torch.tensor(5), **wrapped(state, "module.")}, "epoch": 90},
        "half": {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        "without counters": {key: value for key, value in state.items() if "num_batches" not in key},
        "parameters": {key: nn.Parameter(value) for key, value in state.items() if value.is_floating_point()},
    }


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_wrappers(tmp_path: Path, first: int) -> None:
    """Each in one of the two formats of files; `first` says which of them begins."""
    source = randomise(small())
    expected = recognise_classifier(source.state_dict()).network.state_dict()
    for number, (name, content) in enumerate(wrappers(source.state_dict()).items(), first):
        found = recognised(saved(tmp_path / "x.pth", content, legacy=number % 2 == 1)).network
        for key, value in found.state_dict().items():
            reference = expected[key].half().float() if name == "half" else expected[key]
            assert value.dtype in (torch.float32, torch.int64)
            assert torch.equal(value, reference) or "num_batches" in key, (name, key)
    pictures = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert_close(
            recognised(saved(tmp_path / "x.pth", source.state_dict())).network(pictures).numpy(), source(pictures)
        )


def test_two_containers_are_told(tmp_path: Path) -> None:
    state = randomise(small()).state_dict()
    loaded = load_checkpoint(saved(tmp_path / "x.pth", {"model": state, "model_ema": dict(state)}))
    assert any("'model'" in note and "'model_ema'" in note for note in loaded.notes)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_module(legacy: bool, tmp_path: Path) -> None:
    source = randomise(small())
    found = assert_same(saved(tmp_path / "whole.pth", source, legacy=legacy), source, traced=False)
    assert (found.layout, found.architecture) == ("torchvision", "resnet_basic_1_1_1_1_w64")
    parallel = saved(tmp_path / "parallel.pth", {"model": nn.DataParallel(source), "epoch": 3}, legacy=legacy)
    module = load_checkpoint(parallel).module
    assert module is not None
    assert module.path.endswith(".DataParallel")
    assert recognised(parallel).architecture == found.architecture


HEADS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 7)),
    "mlp": lambda: nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 7)),
    "mlp with dropout": lambda: nn.Sequential(
        nn.Dropout(0.2), nn.Linear(512, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 7)
    ),
    "two linear": lambda: nn.Sequential(nn.Linear(512, 32), nn.Linear(32, 7)),
}


@pytest.mark.parametrize("head", HEADS)
def test_replaced_heads(head: str, tmp_path: Path) -> None:
    source = small()
    source.fc = HEADS[head]()
    source = randomise(source)
    found = assert_same(saved(tmp_path / "x.pth", source.state_dict()), source, traced=head == "mlp with dropout")
    activations = [each.value for each in found.assumptions if each.name == "head-activation"]
    assert activations == (["relu"] if head.startswith("mlp") else [])


def test_cifar_stem_under_torchvisions_keys(tmp_path: Path) -> None:
    source = small()
    source.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    source.maxpool = nn.Identity()
    found = assert_same(saved(tmp_path / "x.pth", randomise(source).state_dict()), source)
    taken = {each.name: each.value for each in found.assumptions}
    assert (taken["stem-stride"], taken["pool"]) == ("1", "none")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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
