"""Whole pickled modules: the network built is the pickled one, or the message says what differs."""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.networks.protocol import ResNetCaptioner
from resonnx_export.networks.resnet import ResNet, ResNetConfig
from resonnx_export.sources.pickled import PickledModule, layer_of
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.sources.pickled_network import layers_found
from resonnx_export.sources.source import read_source, recognise_source
from resonnx_export.vocabulary import Vocabulary
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from ..layouts.caption_sources.tutorials import PictureEncoder, WordDecoder
from ..layouts.classifier_sources import randomise
from ..networks import torchvision_oracle  # noqa: F401  It makes torchvision importable.

resnet = pytest.importorskip("torchvision.models.resnet")
timm = pytest.importorskip("timm")


def small(block: str = "BasicBlock", **more: Any) -> nn.Module:
    """torchvision's own class, of one block a stage."""
    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=5, **more)  # type: ignore[no-any-return]


def of_timm(name: str, **more: Any) -> nn.Module:
    made: nn.Module = timm.create_model(name, layers=(1, 1, 1, 2), num_classes=5, **more)
    return made


def changed(make: Callable[[], nn.Module], **children: nn.Module) -> nn.Module:
    made = make()
    for name, child in children.items():
        parent, _, last = name.rpartition("__")
        setattr(made.get_submodule(parent.replace("__", ".")), last, child)
    return made


def epsilon(value: float) -> nn.Module:
    made = small()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = value
    return made


def activated(activation: nn.Module) -> nn.Module:
    made = small("Bottleneck")
    for module in [made, *made.modules()]:
        if hasattr(module, "relu"):
            module.relu = activation
    return made


def strided() -> nn.Module:
    """Re-identification: the last stage does not stride."""
    made = small("Bottleneck")
    made.layer4[0].conv2.stride = made.layer4[0].downsample[0].stride = (1, 1)  # type: ignore[index, union-attr]
    return made


def caffe() -> nn.Module:
    made = small("Bottleneck")
    for number in (2, 3, 4):
        block = made.get_submodule(f"layer{number}")[0]  # type: ignore[index]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    made.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return made


HEAD = (nn.Linear(512, 16), nn.GELU(), nn.Dropout(), nn.Linear(16, 5))
FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "dilated": lambda: small("Bottleneck", replace_stride_with_dilation=[False, True, True]),
    "no pool": lambda: changed(small, maxpool=nn.Identity()),
    "small pool": lambda: changed(small, maxpool=nn.MaxPool2d(2)),
    "stem stride 1": lambda: changed(small, conv1=nn.Conv2d(3, 64, 7, 1, 3, bias=False)),
    "epsilon": lambda: epsilon(1e-3),
    "silu": lambda: activated(nn.SiLU()),
    "leaky": lambda: activated(nn.LeakyReLU(0.2)),
    "stage without stride": strided,
    "caffe": caffe,
    "adaptive max": lambda: changed(small, avgpool=nn.AdaptiveMaxPool2d((1, 1))),
    "head": lambda: changed(small, fc=nn.Sequential(*HEAD)),
    "data parallel": lambda: nn.DataParallel(epsilon(1e-3)),
    "resnetaa34d": lambda: of_timm("resnetaa34d"),
    "resnetblur18": lambda: of_timm("resnetblur18"),
    "resnet18d silu": lambda: of_timm("resnet18d", act_layer="silu"),
    "resnet26t dilated": lambda: of_timm("resnet26t", output_stride=16),
    "seresnet18 max": lambda: of_timm("seresnet18", global_pool="max"),
    "ecaresnet26t": lambda: of_timm("ecaresnet26t", aa_layer=nn.AvgPool2d),
}


def built(source: nn.Module, path: Path, **assume: str) -> tuple[nn.Module, Any]:
    """Pickle a module whole, read it, and check that the network built gives its logits."""
    torch.save(randomise(source), path)
    recognised = recognise_source(read_source(path), assume=assume)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = source.eval()(x), recognised.network(x)
    expected = getattr(expected, "logits", expected)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    return recognised.network, recognised


@pytest.mark.parametrize("name", FOLLOWED)
def test_layers_are_followed(name: str, tmp_path: Path) -> None:
    _, recognised = built(FOLLOWED[name](), tmp_path / "m.pth")
    # The class is published and its layers are in the file, so nothing is assumed.
    assert [each.name for each in recognised.assumptions if not each.confirmed] == []


def test_hugging_faces_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 2, 1], layer_type="basic"
    )
    _, recognised = built(transformers.ResNetForImageClassification(config), tmp_path / "m.pth")
    assert all(each.confirmed for each in recognised.assumptions)
    # hidden_act is that of the stem and of additions; ReLU stays between convolutions.
    config.hidden_act = "silu"
    with pytest.raises(BadInput, match=r"activation is silu in .*, relu in"):
        built(transformers.ResNetForImageClassification(config), tmp_path / "m.pth")


class Own(nn.Module):
    """A user's class, whose forward() is not in the file."""

    def __init__(self) -> None:
        super().__init__()
        made = small()
        self.conv1, self.bn1, self.relu, self.maxpool = made.conv1, made.bn1, made.relu, made.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = made.layer1, made.layer2, made.layer3, made.layer4
        self.fc = made.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def test_an_own_class_is_told(tmp_path: Path) -> None:
    """What its layers say is followed and certain; what its forward() does is listed."""
    source = Own()
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    _, recognised = built(source, tmp_path / "m.pth")
    told = {each.name: each for each in recognised.assumptions}
    assert told["bn-eps"].value == "0.001"
    assert told["bn-eps"].confirmed
    assert told["strides"].confirmed
    assert not told["global-pool"].confirmed
    assert "test_pickled_network.Own" in told["forward"].value


@pytest.mark.parametrize(("end", "activation"), [(nn.LogSoftmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")])
def test_what_follows_the_logits(end: nn.Module, activation: str, tmp_path: Path) -> None:
    source = changed(small, fc=nn.Sequential(nn.Linear(512, 5), end))
    torch.save(randomise(source), tmp_path / "m.pth")
    read = read_source(tmp_path / "m.pth")
    recognised = recognise_source(read)
    assert read.recorded.activation == activation
    assert any(f"ends in {type(end).__name__}" in note for note in recognised.notes)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(end(recognised.network(x)), source(x), atol=1e-5)


def standardised() -> nn.Module:
    from timm.layers import StdConv2d

    return changed(small, layer2__0__conv1=StdConv2d(64, 128, 3, 2, 1, bias=False))


def hooked() -> nn.Module:
    made = small()
    made.layer1.register_forward_hook(partial(_twice))
    return made


def _twice(module: nn.Module, given: object, output: Tensor) -> Tensor:
    return 2 * output


def reordered() -> nn.Module:
    made = changed(small, fc=nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5)))
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
        lambda: changed(small, layer2__0__downsample__0=nn.Conv2d(64, 128, 1, 1, bias=False)),
        r"downsample.0 has stride \(1, 1\), not \(2, 2\)",
    ),
    "padding mode": (
        lambda: changed(small, layer1__0__conv1=nn.Conv2d(64, 64, 3, 1, 1, bias=False, padding_mode="reflect")),
        "layer1.0.conv1 pads with reflect",
    ),
    "standardised": (standardised, "StdConv2d, not torch's Conv2d"),
    "hook": (hooked, "layer1 has hooks"),
    "batch statistics": (
        lambda: changed(small, bn1=nn.BatchNorm2d(64, track_running_stats=False)),
        "bn1",
    ),
    "order": (reordered, "fc runs its layers in the order 1, 0, 2"),
    "two epsilons": (lambda: changed(small, bn1=nn.BatchNorm2d(64, eps=0.1)), "bn-eps is 0.1 in bn1, 1e-05 in"),
    "head": (
        lambda: changed(small, fc=nn.Sequential(nn.Linear(512, 8), nn.Softmax(1), nn.Linear(8, 5))),
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


def test_the_command_follows_a_module_beside_other_entries(tmp_path: Path) -> None:
    """The dilated and pooled network of a checkpoint of a training script."""
    source = changed(FOLLOWED["dilated"], maxpool=nn.Identity())
    torch.save({"epoch": 3, "model": randomise(source), "optimizer": {}}, tmp_path / "m.pth")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.pth")])
    assert result.exit_code == 0, result.output
    assert "dilation layer3-4" in result.output
    assert "only the weights" not in result.output


def test_damaged_attributes_end_in_one_line(tmp_path: Path) -> None:
    source = randomise(small())
    for attribute, value in (("stride", "ab"), ("dilation", (1, 2, 3)), ("padding", "same"), ("stride", 1e9)):
        source.layer2[0].conv1.__dict__[attribute] = value  # type: ignore[index]
        buffer = io.BytesIO()
        torch.save(source, buffer)
        (tmp_path / "m.pth").write_bytes(buffer.getvalue())
        with pytest.raises(BadInput, match="conv1"):
            recognise_source(read_source(tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, {}),
        ({"maxpool": nn.Identity()}, {"pool": "none"}),
        ({"relu": nn.SiLU()}, {"activation": "silu"}),
        ({"avgpool": nn.AdaptiveMaxPool2d(1)}, {"global-pool": "max"}),
        ({"conv1": nn.Conv2d(3, 64, 7, 1, 3, bias=False)}, {"stem-stride": "1"}),
    ],
)
@torch.no_grad()
def test_a_captioners_pickled_encoder_is_followed(
    changes: dict[str, nn.Module], value: dict[str, str], tmp_path: Path
) -> None:
    source = changed(small, **changes)
    for each in source.modules():
        if "relu" in changes and isinstance(each, resnet.BasicBlock):
            each.relu = changes["relu"]
    randomise(source)
    encoder, decoder = (
        PictureEncoder(16, linear="linear", bn="bn"),
        WordDecoder(("embed", "lstm", "linear"), nn.LSTM(16, 8), 20),
    )
    encoder.resnet, encoder.linear = nn.Sequential(*list(source.children())[:-1]), nn.Linear(512, 16)
    torch.save({"encoder": encoder.eval(), "decoder": decoder}, tmp_path / "m.pth")
    words = Vocabulary(("<pad>", "<start>", "<end>", *(f"word{i}" for i in range(17))))
    found, assume = follow_pickled({}, lambda values: recognise_captioner([tmp_path / "m.pth"], words, assume=values))
    assert assume == value
    network = found.recognised.network
    assert isinstance(network, ResNetCaptioner)
    images = torch.randn(2, 3, 64, 64)
    expected = encoder.resnet(images).flatten(1)
    assert (network.trunk.outputs(images)[0] - expected).abs().max() <= 1e-4 * expected.abs().max()
    listed = {each.name: each for each in found.recognised.assumptions}
    for name, each in value.items():
        assert listed[name].value == each
        # What the encoder's own class does with the layers is not in the file.
        assert listed[name].confirmed == (name == "stem-stride")


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
