"""Classifiers in files of any form: wrapped, compiled, pickled whole, with heads of one's own."""

from pathlib import Path

import pytest
import torch
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.layouts.classifiers import recognise_classifier
from torch import Tensor, nn

from .classifier_sources import randomise, wrapped
from .same_answers import HEADS, SIZE, assert_close, assert_same, recognised, saved, small


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
    found = assert_same(saved(tmp_path / "x.pth", randomise(source).state_dict()), source, traced=False)
    taken = {each.name: each.value for each in found.assumptions}
    assert (taken["stem-stride"], taken["pool"]) == ("1", "none")
