"""Whole pickled modules that are followed: the network built is the pickled one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.networks.protocol import ResNetCaptioner
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.sources.source import read_source, recognise_source
from resonnx_export.vocabulary import Vocabulary
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from ..layouts.caption_sources.tutorials import PictureEncoder, WordDecoder
from ..layouts.classifier_sources import randomise
from .changed_networks import changed, of_timm, resnet, small


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


HEAD = (nn.Linear(64, 16), nn.GELU(), nn.Dropout(), nn.Linear(16, 5))
FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "dilated": lambda: small("Bottleneck", replace_stride_with_dilation=[False, True, True]),
    "no pool": lambda: changed(small, maxpool=nn.Identity()),
    "small pool": lambda: changed(small, maxpool=nn.MaxPool2d(2)),
    "stem stride 1": lambda: changed(small, conv1=nn.Conv2d(3, 8, 7, 1, 3, bias=False)),
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
    source = changed(small, fc=nn.Sequential(nn.Linear(64, 5), end))
    torch.save(randomise(source), tmp_path / "m.pth")
    read = read_source(tmp_path / "m.pth")
    recognised = recognise_source(read)
    assert read.recorded.activation == activation
    assert any(f"ends in {type(end).__name__}" in note for note in recognised.notes)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(end(recognised.network(x)), source(x), atol=1e-5)


def test_the_command_follows_a_module_beside_other_entries(tmp_path: Path) -> None:
    """The dilated and pooled network of a checkpoint of a training script."""
    source = changed(FOLLOWED["dilated"], maxpool=nn.Identity())
    torch.save({"epoch": 3, "model": randomise(source), "optimizer": {}}, tmp_path / "m.pth")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.pth")])
    assert result.exit_code == 0, result.output
    assert "dilation layer3-4" in result.output
    assert "only the weights" not in result.output


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, {}),
        ({"maxpool": nn.Identity()}, {"pool": "none"}),
        ({"relu": nn.SiLU()}, {"activation": "silu"}),
        ({"avgpool": nn.AdaptiveMaxPool2d(1)}, {"global-pool": "max"}),
        ({"conv1": nn.Conv2d(3, 8, 7, 1, 3, bias=False)}, {"stem-stride": "1"}),
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
    encoder.resnet, encoder.linear = nn.Sequential(*list(source.children())[:-1]), nn.Linear(64, 16)
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
