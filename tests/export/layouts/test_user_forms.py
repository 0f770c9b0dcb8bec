"""Classifiers as their users save them: names of modules, heads and entries of files; the logits are the source's.

The trunk is a small ResNet with torchvision's names; each form renames its tensors, or puts layers behind it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.sources.source import read_source, recognise_source
from torch import Tensor, nn

from .classifier_sources import Timm, randomise, wrapped
from .user_forms import (
    CLASSES,
    WIDTH,
    B,
    Behind,
    L,
    Map,
    State,
    assert_equal,
    children,
    dict_of,
    head,
    headless,
    pictures,
    trunk,
)


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return randomise(Timm(bottleneck=False, deep=None, avg=False))


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
