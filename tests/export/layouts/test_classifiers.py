"""Classifiers of public sources: recognised from keys and shapes alone, and the graph says what the source says.

Each checkpoint is written as its source writes it; the answers are held against the source's own forward pass
(classifier_sources.py, or torchvision itself).
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from safetensors.torch import save_file
from torch import nn

from ..networks.torchvision_oracle import get_model
from .classifier_sources import Cifar, HuggingFace, Timm, randomise, wrapped
from .same_answers import SIZE, assert_close, assert_same, saved

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
    found = assert_same(tmp_path / "model.safetensors", source, traced=variant == "seresnet")
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
    found = assert_same(saved(tmp_path / "resnet20.th", state, legacy=True), source, traced=False)
    assert found.layout == "cifar-akamaster"
    assert (found.architecture == "resnet20") == option_a
