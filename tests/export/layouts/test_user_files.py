"""Files of users: which are refused, which of a file's entries is taken, and exports of them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.sources.source import read_source, recognise_source
from torch import Tensor, nn
from typer.testing import CliRunner

from .classifier_sources import Cifar, Timm, randomise, wrapped
from .user_forms import CLASSES, WIDTH, B, L, Map, State, assert_equal, head, headless, pictures, trunk


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return randomise(Timm(bottleneck=False, deep=None, avg=False))


REFUSED: dict[str, tuple[Callable[[State], Mapping[str, Tensor]], str]] = {
    "two heads": (
        lambda s: trunk(s) | head(s, "fc_age") | {"fc_sex.weight": torch.ones(2, WIDTH), "fc_sex.bias": torch.ones(2)},
        r"2 heads were found, fc_age \(7 outputs\), fc_sex \(2 outputs\)",
    ),
    "prototypes": (
        lambda s: (
            trunk(s) | {"projection_head.0.weight": torch.ones(64, WIDTH), "prototypes.weight": torch.ones(30, 64)}
        ),
        r"self-supervised trunk \(SwAV\) without classes",
    ),
    "two networks": (
        lambda s: wrapped(s, "student.") | wrapped(s, "teacher."),
        "2 ResNets were found, under 'student', under 'teacher': choose one with --weights",
    ),
    "not pooled": (
        lambda s: trunk(s) | {"fc.weight": torch.ones(7, 49 * WIDTH), "fc.bias": torch.ones(7)},
        "the head fc takes 6272 numbers, 49 times the trunk's 128 channels",
    ),
    "temperature": (lambda s: s | {"temperature": torch.tensor(2.0)}, "unexpected: temperature"),
    "another layer": (lambda s: s | {"neck.weight": torch.ones(3, 4)}, "unexpected: neck.weight"),
    "parameters only": (
        lambda s: {k: v for k, v in s.items() if "running" not in k},
        r"no running_mean and running_var.*state_dict\(\)",
    ),
    "a video": (lambda s: s | {"conv1.weight": torch.ones(16, 3, 3, 7, 7)}, "conv1.weight has the shape"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused(form: str, source: nn.Module) -> None:
    change, said = REFUSED[form]
    with pytest.raises(BadInput, match=said):
        recognise_classifier(change(source.state_dict()))


ENTRIES: dict[str, Callable[[State], object]] = {
    "params": lambda s: {"epoch": 1, "params": s, "optimizer": {"state": {0: torch.zeros(2)}, "param_groups": []}},
    "two levels": lambda s: {"model": {"state_dict": s, "arch": "resnet18"}, "epoch": 2},
    "a list": lambda s: {"nets": [s], "lr": 0.1},
    "teacher alone": lambda s: {"teacher": s, "args": {"lr": 1}},
    "beside an epoch": lambda s: {**s, "epoch": 3, "best": 0.5},
    "lightning": lambda s: {
        "state_dict": wrapped(s, "net."),
        "callbacks": {"ModelCheckpoint{'monitor': 'acc'}": {"best_model_score": torch.tensor(0.9)}},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}],
    },
    "an average": lambda s: {"state_dict": s, "state_dict_ema": {k: v * 0 for k, v in s.items()}},
    "another network": lambda s: {
        "generator": {"a.weight": torch.ones(8, 3, 3, 3), "b.weight": torch.ones(8, 8, 3, 3)},
        "cls": s,
    },
}


@pytest.mark.parametrize("form", ENTRIES)
@torch.no_grad()
def test_entries_of_files(form: str, source: nn.Module, tmp_path: Path) -> None:
    torch.save(ENTRIES[form](source.state_dict()), tmp_path / "x.pth")
    found = recognise_source(read_source(tmp_path / "x.pth"))
    assert_equal(found, source(pictures()))
    (weights,) = [each for each in found.assumptions if each.name == "weights"] or [None]
    assert (weights is not None) == (form in ("an average", "another network"))
    if form == "an average":
        assert weights is not None
        assert (weights.value, weights.alternatives, weights.option) == (
            "state_dict",
            ("state_dict_ema",),
            "--weights VALUE",
        )


@torch.no_grad()
def test_one_of_several_networks(source: nn.Module, tmp_path: Path) -> None:
    state, other = source.state_dict(), {key: value * 0.5 for key, value in source.state_dict().items()}
    expected = source(pictures())
    torch.save({"student": other, "teacher": state}, tmp_path / "entries.pth")
    torch.save(wrapped(other, "student.") | wrapped(state, "teacher."), tmp_path / "prefixes.pth")
    torch.save(wrapped(other, "module.", "student.") | wrapped(state, "module.", "teacher."), tmp_path / "wrapped.pth")
    for name in ("entries", "prefixes", "wrapped"):
        path = tmp_path / f"{name}.pth"
        with pytest.raises(BadInput, match="--weights"):
            recognise_source(read_source(path))
        found = recognise_source(read_source(path, "teacher"))
        assert_equal(found, expected)
        assert [(each.value, each.confirmed) for each in found.assumptions if each.name == "weights"] == [
            ("teacher", True)
        ]
    with pytest.raises(BadInput, match=r"no weights named 'ema' \(--weights\); it has 'student', 'teacher'"):
        read_source(tmp_path / "entries.pth", "ema")


def test_an_optimiser(tmp_path: Path, source: nn.Module) -> None:
    optimiser = torch.optim.Adam([nn.Parameter(torch.ones(3))])
    torch.save(optimiser.state_dict(), tmp_path / "x.pth")
    with pytest.raises(BadInput, match="an optimiser's state only"):
        read_source(tmp_path / "x.pth")


def test_cifar_names_with_a_large_stem_are_not_cifars(source: nn.Module) -> None:
    found = recognise_classifier(trunk(source.state_dict()) | head(source.state_dict(), "linear"))
    assert found.layout == "torchvision"
    small = recognise_classifier(randomise(Cifar([1, 1, 1, 1], 16, bottleneck=False)).state_dict())
    assert small.layout == "cifar-kuangliu"


@pytest.mark.slow
def test_an_export_and_its_verification(labels_file: Path, tmp_path: Path) -> None:
    head = nn.Sequential(L(WIDTH, 16, bias=False), B(16), nn.ReLU(), nn.Dropout(), L(16, CLASSES))
    state = randomise(nn.Sequential(Map(headless()), head)).state_dict()
    other = {key: value * 0.5 for key, value in state.items()}
    torch.save({"student": wrapped(other, "net."), "teacher": wrapped(state, "net."), "epoch": 3}, tmp_path / "x.pth")
    target = ("--repository", tmp_path / "m", "--name", "t", "--size", 32, "--no-allow-reduced")
    chosen = ("--weights", "teacher", "--assume", "head-activation=relu", "--labels", labels_file)
    exported = CliRunner().invoke(app, [str(each) for each in ("classifier", tmp_path / "x.pth", *target, *chosen)])
    assert exported.exit_code == 0, exported.output
    assert "under `net.0.`, with the head `net.1.0, net.1.1, net.1.4`" in exported.stdout
    verify = ("verify", tmp_path / "m" / "t" / "1", "--checkpoint", tmp_path / "x.pth")
    verified = CliRunner().invoke(app, [str(each) for each in verify])
    assert verified.exit_code == 0, verified.output
    assert "equal to PyTorch's" in verified.stdout


def test_long_names_of_digits_and_letters_take_no_time() -> None:
    stages = {f"{'1a' * 450}.{number}.x.conv1.weight": torch.ones(1) for number in range(1000)}
    started = time.process_time()
    with pytest.raises(BadInput, match="no ResNet was found"):
        recognise_classifier(stages)
    assert time.process_time() - started < 2
