"""Classifiers as their users save them: names of modules, heads and entries of files; the logits are the source's.

The trunk is a small ResNet with torchvision's names; each form renames its tensors, or puts layers behind it.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.sources.source import read_source, recognise_source
from torch import Tensor, nn
from typer.testing import CliRunner

from .classifier_sources import Cifar, Timm, randomise, wrapped

State = dict[str, Tensor]
CLASSES = 7
# The last stage's channels.
WIDTH = 128
# Places of a torchvision ResNet's children in an nn.Sequential of them.
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return randomise(Timm(bottleneck=False, deep=None, avg=False))


def pictures() -> Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_equal(found: RecognisedCheckpoint, expected: Tensor) -> None:
    logits = found.network(pictures())
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def children(state: State, prefix: str, *, start: int = 0, cut: int | None = None) -> State:
    """Name the trunk's tensors as an nn.Sequential of its children does."""
    found = {}
    for key, value in state.items():
        child, _, rest = key.partition(".")
        if child in CHILDREN:
            place = int(CHILDREN[child])
            inner = (
                f"0.{place}" if cut is not None and place < cut else f"1.{place - cut}" if cut else str(place - start)
            )
            found[f"{prefix}{inner}.{rest}"] = value
    return found


def head(state: State, name: str) -> State:
    return {f"{name}.{key.removeprefix('fc.')}": value for key, value in state.items() if key.startswith("fc.")}


def trunk(state: State, prefix: str = "") -> State:
    return {f"{prefix}{key}": value for key, value in state.items() if not key.startswith("fc.")}


FORMS: dict[str, Callable[[State], Mapping[str, Tensor]]] = {
    **{
        f"an attribute: {prefix}": lambda state, prefix=prefix: wrapped(state, *prefix)  # type: ignore[misc]
        for prefix in (("resnet.",), ("model.", "net."), ("encoder.",), ("_orig_mod.", "module.", "timm_model."))
    },
    "fsdp in blocks": lambda s: {k.replace(".conv", "._fsdp_wrapped_module.conv"): v for k, v in s.items()},
    "a head beside": lambda s: trunk(s, "backbone.") | head(s, "classifier"),
    "a head above": lambda s: trunk(s, "model.encoder.") | head(s, "model.head.linear"),
    "the children": lambda s: children(s, "resnet.") | head(s, "fc"),
    "the children, and all in a Sequential": lambda s: children(s, "0.") | head(s, "2"),
    "the children, cut in two": lambda s: children(s, "features.", cut=6) | head(s, "classifier"),
    "the stages as attributes": lambda s: (
        {k.replace("layer", "encoder.stage_"): v for k, v in trunk(s).items()} | head(s, "out")
    ),
    "stem apart": lambda s: (
        {
            k.replace("conv1.", "stem.0.", 1)
            if k.startswith("conv1.")
            else k.replace("bn1.", "stem.1.", 1)
            if k.startswith("bn1.")
            else f"body.{k}": v
            for k, v in trunk(s).items()
        }
        | head(s, "logits")
    ),
    "last_linear": lambda s: trunk(s) | head(s, "last_linear"),
    "a 1x1 convolution": lambda s: (
        trunk(s) | {"cls.weight": s["fc.weight"][:, :, None, None], "cls.bias": s["fc.bias"]}
    ),
    "keys in the order of their names": lambda s: dict(sorted((children(s, "resnet.") | head(s, "fc")).items())),
    "a loss and metrics": lambda s: (
        wrapped(s, "model.")
        | {
            "criterion.weight": torch.ones(CLASSES),
            "loss_fn.pos_weight": torch.ones(CLASSES),
            "train_acc.tp": torch.zeros(CLASSES, dtype=torch.long),
            "val_metrics.MulticlassF1Score.sum": torch.zeros(CLASSES),
        }
    ),
    "an average beside": lambda s: wrapped(s, "model.") | {f"ema_model.module.{k}": v * 0 for k, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_names(form: str, source: nn.Module) -> None:
    found = recognise_classifier(FORMS[form](source.state_dict()))
    assert_equal(found, source(pictures()))
    if form.startswith("a loss"):
        (told,) = [note for note in found.notes if "left out" in note]
        for name in ("criterion.weight", "loss_fn.pos_weight", "train_acc.tp", "val_metrics.MulticlassF1Score.sum"):
            assert name in told


class Behind(nn.Module):
    """A trunk, pooled, with a head of other names."""

    def __init__(self, trunk: nn.Module, **layers: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.names = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x


def headless() -> Any:
    source = Timm(bottleneck=False, deep=None, avg=False)
    source.fc = nn.Identity()  # type: ignore[assignment]
    return source


L, B = nn.Linear, nn.BatchNorm1d
# The head; and whether an activation between its layers was assumed.
HEADS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "no bias": (lambda: Behind(headless(), fc=L(WIDTH, CLASSES, bias=False)), False),
    "batchnorm first": (lambda: Behind(headless(), bn=B(WIDTH), fc=L(WIDTH, CLASSES)), False),
    "batchnorm last": (lambda: Behind(headless(), fc=L(WIDTH, CLASSES), bn=B(CLASSES)), False),
    "bottleneck": (
        lambda: Behind(headless(), head=nn.Sequential(L(WIDTH, 16), B(16), nn.ReLU(), nn.Dropout(), L(16, CLASSES))),
        True,
    ),
    "activation first": (
        lambda: Behind(headless(), head=nn.Sequential(L(WIDTH, 16), nn.ReLU(), B(16), nn.Dropout(), L(16, CLASSES))),
        True,
    ),
    "names in order": (
        lambda: Behind(
            headless(), fc1=L(WIDTH, WIDTH), act=nn.ReLU(), fc2=L(WIDTH, WIDTH), act2=nn.ReLU(), fc3=L(WIDTH, CLASSES)
        ),
        True,
    ),
    "OrderedDict": (
        lambda: Behind(
            headless(), classifier=nn.Sequential(dict_of(fc1=L(WIDTH, 16), relu=nn.ReLU(), fc2=L(16, CLASSES)))
        ),
        True,
    ),
    "behind a whole ResNet": (
        lambda: Behind(Timm(bottleneck=False, deep=None, avg=False), fc=L(CLASSES, 5)),
        True,
    ),
    "behind, in a Sequential": (
        lambda: nn.Sequential(Timm(bottleneck=False, deep=None, avg=False), L(CLASSES, 5)),
        False,
    ),
    "behind, in a Sequential with ReLU": (
        lambda: nn.Sequential(nn.Sequential(headless(), L(WIDTH, 16)), nn.ReLU(), L(16, 5)),
        True,
    ),
}


def dict_of(**layers: nn.Module) -> Any:
    from collections import OrderedDict

    return OrderedDict(layers)


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_heads(name: str) -> None:
    build, assumed = HEADS[name]
    source = randomise(build())
    found = recognise_classifier(source.state_dict())
    assert_equal(found, source(pictures()))
    assert [each.name for each in found.assumptions if each.name == "head-activation"] == ["head-activation"] * assumed


class Concatenated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


class Map(nn.Module):
    """A ResNet's children up to its last stage, at their places in an nn.Sequential."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        for name, place in CHILDREN.items():
            self.add_module(place, source.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        names = list(CHILDREN.values())
        x = nn.functional.max_pool2d(torch.relu(self.get_submodule("1")(self.get_submodule("0")(x))), 3, 2, 1)
        for name in names[2:]:
            x = self.get_submodule(name)(x)
        return x


@torch.no_grad()
def test_fastai(tmp_path: Path) -> None:
    head = nn.Sequential(
        *(Concatenated(), nn.Flatten(), B(2 * WIDTH), nn.Dropout(), L(2 * WIDTH, 16, bias=False), nn.ReLU()),
        *(B(16), nn.Dropout(), L(16, CLASSES, bias=False)),
    )
    source = randomise(nn.Sequential(Map(headless()), head))
    torch.save({"model": source.state_dict(), "opt": {"state": [{}], "hypers": [{"lr": 1e-3}]}}, tmp_path / "x.pth")
    found = recognise_source(read_source(tmp_path / "x.pth"))
    assert_equal(found, source(pictures()))
    assert {each.name: each.value for each in found.assumptions}["global-pool"] == "cat-max-avg"


def test_another_activation_in_the_head() -> None:
    source = randomise(Behind(headless(), fc=nn.Sequential(L(WIDTH, 16), nn.Tanh(), L(16, CLASSES))))
    found = recognise_classifier(source.state_dict(), assume={"head-activation": "tanh"})
    with torch.no_grad():
        assert_equal(found, source(pictures()))


@torch.no_grad()
def test_biases_of_convolutions() -> None:
    source = Timm(bottleneck=True, deep=(8, 8), avg=True)
    for name, module in list(source.named_modules()):
        if isinstance(module, nn.Conv2d) and not name.endswith(("fc1", "fc2")):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    randomise(source)
    assert_equal(recognise_classifier(source.state_dict()), source(pictures()))


class Residual(nn.Module):
    """weiaicunzai/pytorch-cifar100's block, with its names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        changed = stride != 1 or inputs != outputs
        layers = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if changed else ()
        self.shortcut = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual_function(x) + self.shortcut(x))


@torch.no_grad()
def test_weiaicunzai() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    layers = {"conv1": stem}
    for number, (inputs, outputs, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2)), start=2):
        layers[f"conv{number}_x"] = nn.Sequential(Residual(inputs, outputs, stride))
    source = randomise(nn.Sequential(dict_of(**layers, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=L(128, 7))))
    found = recognise_classifier(source.state_dict())
    assert found.layout == "cifar-weiaicunzai"
    assert_equal(found, source(pictures()))


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
