"""Networks: torchvision's counts, detection from bare state_dicts, strict loading, and the step."""

from dataclasses import replace

import pytest
import torch
from resonnx_export.networks.blocks import adaptive_average
from resonnx_export.networks.captioner import Captioner, CaptionerConfig, config_from_state_dict
from resonnx_export.networks.detect import (
    CheckpointMismatch,
    load_strict,
    resnet_config_from_state_dict,
)
from resonnx_export.networks.naming import architecture_name, described
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig

# architecture -> (keys of the state_dict, parameters), as torchvision publishes them
PUBLISHED = {
    "resnet18": (122, 11_689_512),
    "resnet34": (218, 21_797_672),
    "resnet50": (320, 25_557_032),
    "resnet101": (626, 44_549_160),
    "resnet152": (932, 60_192_808),
    "resnext50_32x4d": (320, 25_028_904),
    "resnext101_32x8d": (626, 88_791_336),
    "resnext101_64x4d": (626, 83_455_272),
    "wide_resnet50_2": (320, 68_883_240),
    "wide_resnet101_2": (626, 126_886_696),
}
TINY = ResNetConfig("bottleneck", (1, 2), groups=2, width_per_group=32, planes=16, num_classes=7)


def on_meta(config: ResNetConfig) -> ResNet:
    with torch.device("meta"):
        return ResNet(config)


def tiny_captioner() -> Captioner:
    torch.manual_seed(0)
    trunk = ResNetConfig("basic", (1, 1, 1), planes=8, num_classes=0)
    return Captioner(CaptionerConfig(trunk, 11, 5, 12, 6)).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_torchvisions(name: str) -> None:
    model = on_meta(ARCHITECTURES[name])
    counts = (len(model.state_dict()), sum(p.numel() for p in model.parameters()))
    assert counts == PUBLISHED[name]


def test_shapes_that_tell_the_families_apart() -> None:
    resnext = on_meta(ARCHITECTURES["resnext101_64x4d"]).state_dict()
    assert resnext["layer1.0.conv2.weight"].shape == (256, 4, 3, 3)
    assert resnext["layer4.0.conv2.weight"].shape == (2048, 32, 3, 3)
    wide = on_meta(ARCHITECTURES["wide_resnet50_2"]).state_dict()
    assert wide["layer4.0.conv2.weight"].shape == (1024, 1024, 3, 3)
    assert "layer1.0.downsample.0.weight" not in on_meta(ARCHITECTURES["resnet18"]).state_dict()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_detection_finds_every_architecture(name: str) -> None:
    config = replace(ARCHITECTURES[name], num_classes=23, in_channels=1)
    found = resnet_config_from_state_dict(on_meta(config).state_dict())
    assert found == config
    assert architecture_name(found) == name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TINY, "resnet_bottleneck_1_2_w16_2x32d"),
        (ResNetConfig("basic", (1, 1), planes=8, stem="small"), "resnet_basic_1_1_w8_small"),
    ],
)
def test_detection_finds_unpublished_shapes(config: ResNetConfig, name: str) -> None:
    assert resnet_config_from_state_dict(on_meta(config).state_dict()) == config
    assert architecture_name(config) == name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ARCHITECTURES["resnet18"], "a ResNet-18"),
        (ARCHITECTURES["wide_resnet50_2"], "a Wide ResNet-50 2"),
        (ARCHITECTURES["senet154"], "an SENet-154"),
        (replace(ARCHITECTURES["resnext50_32x4d"], gate="se", stem="deep"), "an SE-ResNeXt-50c 32x4d"),
        (ResNetConfig("basic", (1, 1, 1, 1)), "a ResNet with basic blocks 1-1-1-1, width 64"),
        (TINY, "a ResNet with bottleneck blocks 1-2, width 16, 2 groups, 32 channels a group"),
    ],
)
def test_names_in_words(config: ResNetConfig, words: str) -> None:
    assert described(config) == words


def test_a_stem_of_another_width_than_the_first_stage() -> None:
    config = replace(TINY, stem_channels=24, block="basic", groups=1, width_per_group=64)
    assert resnet_config_from_state_dict(on_meta(config).state_dict()) == config


def test_a_trunk_has_no_classes() -> None:
    config = replace(TINY, num_classes=0)
    model = ResNet(config).eval()
    assert resnet_config_from_state_dict(model.state_dict()) == config
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(pictures), model.forward_features(pictures))


def test_three_views_of_one_forward_pass() -> None:
    model = ResNet(TINY).eval()
    pictures = torch.rand(2, 3, 32, 32)
    grid = model.features_map(pictures)
    features = model.forward_features(pictures)
    assert grid.shape == (2, TINY.feature_size, 4, 4)
    torch.testing.assert_close(features, grid.mean(dim=(2, 3)))
    torch.testing.assert_close(model(pictures), model.fc(features))


def test_load_strict_copies_and_casts() -> None:
    source, target = ResNet(TINY), ResNet(TINY)
    halves = {k: v.half() for k, v in source.state_dict().items()}
    load_strict(target, {k: v for k, v in halves.items() if "num_batches_tracked" not in k})
    for key, value in target.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.equal(value, halves[key].float())


def test_load_strict_lists_every_difference_and_changes_nothing() -> None:
    model = ResNet(TINY)
    before = model.state_dict()["bn1.weight"].clone()
    state_dict = {k: v + 1 for k, v in model.state_dict().items()}
    del state_dict["conv1.weight"]
    state_dict["head.weight"] = torch.zeros(3)
    state_dict["fc.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointMismatch) as caught:
        load_strict(model, state_dict)
    assert caught.value.missing == ["conv1.weight"]
    assert caught.value.unexpected == ["head.weight"]
    assert caught.value.wrong_shapes == {"fc.bias": ((7,), (9,))}
    assert "fc.bias (expected [7], found [9])" in str(caught.value)
    assert torch.equal(model.state_dict()["bn1.weight"], before)


def test_long_lists_are_shortened_in_the_message_only() -> None:
    with pytest.raises(CheckpointMismatch, match=r"and \d+ more") as caught:
        load_strict(ResNet(TINY), {})
    assert "layer2.1.bn3.running_var" in caught.value.missing
    assert len(str(caught.value)) < 600


def test_detection_says_which_key_is_missing() -> None:
    with pytest.raises(CheckpointMismatch, match=r"missing: conv1\.weight"):
        resnet_config_from_state_dict({})
    with pytest.raises(CheckpointMismatch, match=r"missing: embedding\.weight"):
        config_from_state_dict({})


def test_captioner_detection_round_trip() -> None:
    model = tiny_captioner()
    assert config_from_state_dict(model.state_dict()) == model.config


def test_teacher_forcing_is_a_chain_of_steps() -> None:
    model = tiny_captioner()
    pictures, captions = torch.rand(2, 3, 64, 64), torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0]])
    scores = model(pictures, captions)
    state, features, _ = model.encode(pictures)
    for position in range(3):
        stepped = model.step(captions[:, position], state, features)
        torch.testing.assert_close(stepped.log_probs, scores[:, position])
        torch.testing.assert_close(stepped.attention.sum(dim=1), torch.ones(2))
        state = stepped.state
    assert scores.shape == (2, 3, 11)
    torch.testing.assert_close(scores.exp().sum(dim=2), torch.ones(2, 3))


def test_rows_of_a_step_are_independent() -> None:
    model = tiny_captioner()
    state, features, _ = model.encode(torch.rand(3, 3, 64, 64))
    tokens = torch.tensor([3, 4, 5])
    together = model.step(tokens, state, features)
    alone = model.step(tokens[1:2], tuple(s[1:2] for s in state), tuple(f[1:2] for f in features))
    torch.testing.assert_close(alone.log_probs, together.log_probs[1:2])
    torch.testing.assert_close(alone.attention, together.attention[1:2])


def test_encoded_shapes_and_map_size() -> None:
    model = tiny_captioner()
    (hidden, cell), (values, keys), _ = model.encode(torch.rand(2, 3, 64, 64))
    assert hidden.shape == cell.shape == (2, 12)
    assert values.shape == (2, 16, 32)
    assert keys.shape == (2, 16, 6)
    wider = Captioner(replace(model.config, map_size=6)).eval()
    assert wider.encode(torch.rand(2, 3, 64, 64)).features[0].shape == (2, 36, 32)


def test_the_step_traces_with_a_dynamic_row_axis() -> None:
    model = tiny_captioner()

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.captioner = model

        def forward(self, token: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
            log_probs, state, attention = self.captioner.step(token, rest[:2], rest[2:])
            return log_probs, *state, attention

    def inputs(rows: int) -> tuple[torch.Tensor, ...]:
        state, features, _ = model.encode(torch.rand(rows, 3, 64, 64))
        return torch.arange(rows) + 3, *state, *features

    axis = {0: torch.export.Dim("rows", min=1)}
    with torch.no_grad():
        first, *rest = inputs(3)
        program = torch.export.export(Step().eval(), (first, *rest), dynamic_shapes=(axis, (axis,) * 4))
        for rows in (1, 5):
            fresh = inputs(rows)
            for found, expected in zip(program.module()(*fresh), Step()(*fresh), strict=True):
                torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("height", "width", "side"), [(2, 2, 14), (8, 8, 14), (15, 20, 14), (14, 14, 14), (3, 5, 1)])
def test_adaptive_average(height: int, width: int, side: int) -> None:
    grid = torch.randn(2, 3, height, width)
    torch.testing.assert_close(adaptive_average(grid, side), torch.nn.functional.adaptive_avg_pool2d(grid, side))
