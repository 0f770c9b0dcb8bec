"""A small ResNet with torchvision's names, and what its users make of it."""

from typing import Any

import torch
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from torch import Tensor, nn

from .classifier_sources import Timm

State = dict[str, Tensor]
CLASSES = 7
# The last stage's channels.
WIDTH = 128
# Places of a torchvision ResNet's children in an nn.Sequential of them.
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


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


def dict_of(**layers: nn.Module) -> Any:
    from collections import OrderedDict

    return OrderedDict(layers)


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
