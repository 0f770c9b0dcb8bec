"""Whole pickled modules that cannot be followed, are damaged or are made to take long."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.networks.resnet import ResNet, ResNetConfig
from resonnx_export.sources.pickled import PickledModule, layer_of
from resonnx_export.sources.pickled_network import layers_found
from resonnx_export.sources.source import read_source, recognise_source
from torch import Tensor, nn

from ..layouts.classifier_sources import randomise
from .changed_networks import changed, small


def standardised() -> nn.Module:
    from timm.layers import StdConv2d

    return changed(small, layer2__0__conv1=StdConv2d(8, 16, 3, 2, 1, bias=False))


def hooked() -> nn.Module:
    made = small()
    made.layer1.register_forward_hook(partial(_twice))
    return made


def _twice(module: nn.Module, given: object, output: Tensor) -> Tensor:
    return 2 * output


def reordered() -> nn.Module:
    made = changed(small, fc=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)))
    held = made.fc._modules  # type: ignore[union-attr]
    made.fc._modules = OrderedDict((name, held[name]) for name in ("1", "0", "2"))  # type: ignore[union-attr]
    return made


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "two activations": (lambda: changed(small, relu=nn.SiLU()), "activation is silu in relu, relu in layer1.0.relu"),
    "pool": (lambda: changed(small, maxpool=nn.MaxPool2d(5, 3, 2)), r"maxpool is MaxPool2d\(5, 3, 2\)"),
    "own layer": (lambda: changed(small, maxpool=Doubled()), "maxpool is a .*Doubled"),
    "one stride": (
        lambda: changed(small, layer2__0__downsample__0=nn.Conv2d(8, 16, 1, 1, bias=False)),
        r"downsample.0 has stride \(1, 1\), not \(2, 2\)",
    ),
    "padding mode": (
        lambda: changed(small, layer1__0__conv1=nn.Conv2d(8, 8, 3, 1, 1, bias=False, padding_mode="reflect")),
        "layer1.0.conv1 pads with reflect",
    ),
    "standardised": (standardised, "StdConv2d, not torch's Conv2d"),
    "hook": (hooked, "layer1 has hooks"),
    "batch statistics": (
        lambda: changed(small, bn1=nn.BatchNorm2d(8, track_running_stats=False)),
        "bn1",
    ),
    "order": (reordered, "fc runs its layers in the order 1, 0, 2"),
    "two epsilons": (lambda: changed(small, bn1=nn.BatchNorm2d(8, eps=0.1)), "bn-eps is 0.1 in bn1, 1e-05 in"),
    "head": (
        lambda: changed(small, fc=nn.Sequential(nn.Linear(64, 8), nn.Softmax(1), nn.Linear(8, 5))),
        "fc is Linear -> Softmax -> Linear, not",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    torch.save(randomise(make()), tmp_path / "m.pth")
    with pytest.raises(BadInput, match=said):
        recognise_source(read_source(tmp_path / "m.pth"))


def test_options_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    torch.save(randomise(small()), tmp_path / "m.pth")
    source = read_source(tmp_path / "m.pth")
    with pytest.raises(BadInput, match=r"bn-eps=0\.001 contradicts the file"):
        recognise_source(source, assume={"bn-eps": "0.001"})
    recognise_source(source, assume={"bn-eps": "1e-05"})


def test_damaged_attributes_end_in_one_line(tmp_path: Path) -> None:
    source = randomise(small())
    for attribute, value in (("stride", "ab"), ("dilation", (1, 2, 3)), ("padding", "same"), ("stride", 1e9)):
        source.layer2[0].conv1.__dict__[attribute] = value  # type: ignore[index]
        buffer = io.BytesIO()
        torch.save(source, buffer)
        (tmp_path / "m.pth").write_bytes(buffer.getvalue())
        with pytest.raises(BadInput, match="conv1"):
            recognise_source(read_source(tmp_path / "m.pth"))


def test_equal_shapes_do_not_take_quadratic_time() -> None:
    """All layers have one shape: each is compared with one other, not with all."""
    network = ResNet(ResNetConfig("basic", (60,), planes=8, num_classes=2, stem="small"))
    # In another order than the network's, so that the first of those left is never the same.
    layers = {name: layer_of(name, each) for name, each in reversed([*network.named_modules()])}
    module = PickledModule(layers, network.state_dict())
    read = 0

    class Counted(dict[str, Tensor]):
        def __getitem__(self, key: str) -> Tensor:
            nonlocal read
            read += 1
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            nonlocal read
            read += 1
            return super().get(key, default)

    found = layers_found(network, replace(module, tensors=Counted(module.tensors)))
    assert {own: layer.name for own, layer in found.items()} == {own: own for own in found}
    assert len(found) == 122
    assert read <= 2 * len(layers)


@pytest.mark.parametrize(
    ("layer", "attribute"),
    [
        ("bn1", "eps"),
        ("conv1", "stride"),
        ("conv1", "groups"),
        ("conv1", "padding_mode"),
        ("maxpool", "ceil_mode"),
        ("avgpool", "output_size"),
    ],
)
def test_attributes_of_another_kind(layer: str, attribute: str, tmp_path: Path) -> None:
    """A list of two lists of two lists, and so on, has 2**60 parts in a file of a few kB."""
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (torch.ones(3), doubled):
        made = small()
        setattr(made.get_submodule(layer), attribute, value)
        torch.save(made, tmp_path / "m.pth")
        with pytest.raises(BadInput) as refused:
            recognise_source(read_source(tmp_path / "m.pth"))
        assert len(str(refused.value)) < 500
