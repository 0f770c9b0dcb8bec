"""Networks with the same keys and other arithmetic: each is listed, and its option makes the network equal."""

from collections.abc import Callable, Mapping

import pytest
import torch
from resonnx_export.assumptions.axes import AXES
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from torch import Tensor, nn
from torch.nn import functional

from ..layouts.classifier_sources import Cifar, SEModule, Timm, randomise
from .silent_networks import SILENT, silent, small

PICTURES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def difference(network: nn.Module, source: nn.Module) -> float:
    """Return the greatest difference of the logits, as a share of the source's largest."""
    with torch.no_grad():
        expected, found = source(PICTURES), network(PICTURES)
    return float((found - expected).abs().max() / expected.abs().max())


def assert_told(source: nn.Module, assume: Mapping[str, str]) -> None:
    """Require that the network differs as read, tells so, and is equal with its right values."""
    state = source.state_dict()
    plain = recognise_classifier(state)
    assert difference(plain.network, source) > 1e-3
    listed = {each.name: each for each in plain.assumptions}
    for name, value in assume.items():
        assert listed[name].value != value
        assert not listed[name].confirmed
    stated = recognise_classifier(state, assume=assume)
    assert difference(stated.network, source) < 1e-5
    for each in stated.assumptions:
        assert each.confirmed == (each.name in assume)
    # What the first reading lists is what an alternative of it would be found under.
    assert {each.name: each.value for each in stated.assumptions} == {
        name: each.value for name, each in listed.items()
    } | dict(assume)


@pytest.mark.parametrize("name", SILENT)
def test_torchvisions_networks_with_other_properties(name: str) -> None:
    assert_told(silent(name), SILENT[name][0])


class _SiluGate(SEModule):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


def test_gates_of_other_functions() -> None:
    source = Timm(bottleneck=True, deep=None, avg=False, attn="se")
    for module in source.modules():
        if isinstance(module, SEModule):
            module.__class__ = _SiluGate
    assert_told(randomise(source), {"gate-activation": "silu"})


class _ShortcutA(nn.Module):
    """The DownsampleA of CIFAR's ResNeXt repositories: an average, and zeros after the channels."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return torch.cat([x, x.mul(0)], 1)


@pytest.mark.parametrize(
    ("assume", "pool"),
    [
        ({"padded-channels": "end"}, lambda x: x[:, :, ::2, ::2]),
        ({"padded-channels": "end", "padded-pool": "avg"}, lambda x: functional.avg_pool2d(x, 2)),
    ],
)
def test_shortcuts_without_weights(assume: dict[str, str], pool: Callable[[Tensor], Tensor]) -> None:
    source = Cifar([1, 1, 1], 16, option_a=True)
    for stage in (source.get_submodule("layer2"), source.get_submodule("layer3")):
        block = stage.get_submodule("0")
        block.padding, block.shortcut = 0, _ShortcutA(pool)
    assert_told(randomise(source), assume)


def test_a_value_of_every_listed_kind_builds_a_network() -> None:
    state = randomise(small()).state_dict()
    for each in recognise_classifier(state).assumptions:
        assert each.alternatives
        for value in each.alternatives:
            found = recognise_classifier(state, assume={each.name: value})
            assert found.network(PICTURES).shape == (2, 5)
            assert {other.name: other.value for other in found.assumptions}[each.name] == value


@pytest.mark.parametrize(
    ("assume", "message"),
    [
        (
            {"activaton": "relu"},
            "no property 'activaton'; --assume takes activation, inner-activation, bn-eps, stem-stride, pool",
        ),
        ({"activation": "swishy"}, "activation takes relu, silu, gelu"),
        ({"activation": "leaky_relu:7"}, "leaky_relu:SLOPE"),
        ({"bn-eps": "0"}, "any number above 0 and below 1"),
        ({"bn-eps": "nan"}, "any number above 0 and below 1"),
        ({"pool": "min"}, "pool takes max, max-ceil"),
        ({"strides": "1-2-2"}, "strides takes 1-2-2-2, 1-2-2-1"),
        ({"strides": "1-2-2-99"}, "the stride of each stage"),
        ({"dilation": "layer2"}, "dilation takes none, layer4, layer3-4"),
        ({"stride-in": "1x1"}, "basic blocks, imagenet stem"),
        ({"gate": "hard-sigmoid"}, "no property 'gate'"),
        ({"head-activation": "tanh"}, "no property 'head-activation'"),
    ],
)
def test_what_the_network_does_not_have_is_refused(assume: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match="--assume") as caught:
        recognise_classifier(small().state_dict(), assume=assume)
    assert message in str(caught.value)


def test_the_flag_and_the_property_agree() -> None:
    state = silent("Caffe's strides").state_dict()
    flag, stated = (
        recognise_classifier(state, stride_in_1x1=True),
        recognise_classifier(state, assume={"stride-in": "1x1"}),
    )
    assert flag.assumptions == stated.assumptions
    with pytest.raises(BadInput, match="contradicts"):
        recognise_classifier(state, assume={"stride-in": "3x3"}, stride_in_1x1=True)


def test_names_are_unique() -> None:
    assert len({axis.name for axis in AXES}) == len(AXES)
    assert len({axis.field for axis in AXES}) == len(AXES)
