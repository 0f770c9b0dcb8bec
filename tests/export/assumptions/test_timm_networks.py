"""timm's own networks with the same keys as plain ones: listed, and equal with the right option."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.checkpoints.modules import module_names
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.sources.source import read_source, recognise_source
from torch import nn

from ..layouts.classifier_sources import randomise, wrapped
from ..networks.torchvision_oracle import get_model
from .test_axes import assert_told, difference

# After torchvision_oracle, as timm imports torchvision.
from timm.layers import BlurPool2d  # isort: skip
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # isort: skip

DEEP = {"stem_type": "deep", "stem_width": 32, "avg_down": True}
SE = {"block_args": {"attn_layer": "se"}}

# The properties' right values, and timm's arguments.
NETWORKS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "resnetblur": ({"anti-aliasing": "blur"}, {"block": Bottleneck, "aa_layer": BlurPool2d}),
    "resnetblur basic, deep": ({"anti-aliasing": "blur"}, {"block": BasicBlock, "aa_layer": BlurPool2d, **DEEP}),
    "resnetaa": ({"anti-aliasing": "avg"}, {"block": Bottleneck, "aa_layer": nn.AvgPool2d}),
    "resnetaad basic": ({"anti-aliasing": "avg"}, {"block": BasicBlock, "aa_layer": nn.AvgPool2d, **DEEP}),
    "seresnextaad": (
        {"anti-aliasing": "avg"},
        {"block": Bottleneck, "aa_layer": nn.AvgPool2d, "cardinality": 32, "base_width": 4, **DEEP, **SE},
    ),
    "output_stride 16": ({"dilation": "layer4"}, {"block": Bottleneck, "output_stride": 16}),
    "output_stride 8, deep": ({"dilation": "layer3-4"}, {"block": BasicBlock, "output_stride": 8, **DEEP}),
    "dilated and blurred": (
        {"dilation": "layer4", "anti-aliasing": "blur"},
        {"block": BasicBlock, "output_stride": 16, "aa_layer": BlurPool2d},
    ),
    "SiLU": ({"activation": "silu"}, {"block": BasicBlock, "act_layer": nn.SiLU}),
    "global_pool max": ({"global-pool": "max"}, {"block": BasicBlock, "global_pool": "max"}),
    "global_pool avgmax": ({"global-pool": "avgmax"}, {"block": BasicBlock, "global_pool": "avgmax"}),
}


def network(name: str) -> ResNet:
    return randomise(ResNet(layers=(1, 1, 1, 1), num_classes=5, **NETWORKS[name][1]))


def values(assumptions: Iterable[Assumption]) -> dict[str, str]:
    return {each.name: each.value for each in assumptions}


@pytest.mark.parametrize("name", NETWORKS)
def test_listed_and_equal_with_the_option(name: str) -> None:
    assert_told(network(name), NETWORKS[name][0])


def test_two_pools_joined() -> None:
    source = randomise(ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, global_pool="catavgmax"))
    found = recognise_classifier(source.state_dict())
    assert difference(found.network, source) < 1e-5
    assert values(found.assumptions)["global-pool"] == "cat-avg-max"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_blurred_stem_is_read_from_the_file(prefix: str, legacy: bool, tmp_path: Path) -> None:
    source = network("resnetblur")
    holder = nn.ModuleDict({"model": source}) if prefix.endswith("model.") else source
    holder = nn.DataParallel(holder) if prefix.startswith("module.") else holder
    content = {"epoch": 3, "state_dict": holder.state_dict()}
    assert all(key.startswith(prefix) for key in content["state_dict"])
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    found = recognise_source(read_source(tmp_path / "x.pth"))
    assert found.layout == "timm"
    assert difference(found.network, source) < 1e-5
    (told,) = [each for each in found.assumptions if each.name == "anti-aliasing"]
    assert (told.value, told.confirmed) == ("blur", True)


def test_the_users_word_counts_more_than_the_files(tmp_path: Path) -> None:
    torch.save(network("resnetblur").state_dict(), tmp_path / "x.pth")
    found = recognise_source(read_source(tmp_path / "x.pth"), assume={"anti-aliasing": "none"})
    assert values(found.assumptions)["anti-aliasing"] == "none"


def test_modules_tell_timms_class_from_torchvisions(tmp_path: Path) -> None:
    for expected, source in (("timm", network("SiLU")), ("torchvision", get_model("resnet18", num_classes=5))):
        torch.save(source.state_dict(), tmp_path / "x.pth")
        found = recognise_source(read_source(tmp_path / "x.pth"))
        assert found.layout == expected
        assert not found.notes


def test_a_class_without_a_pool_is_told(tmp_path: Path) -> None:
    source = get_model("resnet18", num_classes=5)
    del source.maxpool
    torch.save(source.state_dict(), tmp_path / "x.pth")
    source = read_source(tmp_path / "x.pth")
    assert any("--assume pool=none" in note for note in recognise_source(source).notes)
    assert not recognise_source(source, assume={"pool": "none"}).notes


def test_files_without_names_of_modules(tmp_path: Path) -> None:
    state = network("resnetblur").state_dict()
    torch.save(dict(state), tmp_path / "plain.pth")
    torch.save(wrapped(state, "module."), tmp_path / "renamed.pth")
    for name in ("plain.pth", "renamed.pth"):
        assert load_checkpoint(tmp_path / name).modules == frozenset()
        assert values(recognise_source(read_source(tmp_path / name)).assumptions)["anti-aliasing"] == "none"


def test_a_tree_that_refers_to_itself_many_times_is_read_once() -> None:
    level: dict[str, object] = {"x": torch.zeros(1)}
    for _ in range(12):
        level = {str(number): level for number in range(1000)}
    level["self"] = level
    assert module_names(level, {}) == frozenset()
