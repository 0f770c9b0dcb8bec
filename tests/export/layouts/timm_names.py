"""Compares readings of plain checkpoints with timm's own ResNets, and prints docs/timm.md (`make timm`)."""

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from torch import nn

from ..networks.torchvision_oracle import get_model
from .classifier_sources import randomise

# After torchvision_oracle, as timm imports torchvision.
import timm  # isort: skip
from timm.layers import BlurPool2d  # isort: skip

assert get_model
MOST_PARAMETERS: Final = 120_000_000
_SIZE: Final = 64
_TOLERANCE: Final = 1e-4

HEAD: Final = """\
# timm's ResNets

<!-- Made by `make timm`; `make test-slow` compares it with the code (tests/export/layouts/test_timm_names.py). -->

What `resonnx-export classifier` makes of a plain state_dict of each network in `timm.list_models(module="resnet")` of
up to 120 M parameters, with random weights: its logits are compared with timm's (within 1e-4 of the largest).
timm {version}.

- **equal**: no option is needed.
- **option**: the keys are those of another network. The output lists the property; with this option the logits are
  equal, without it they are not. A `.pth` file of `state_dict()` as it is shows `blur` by itself, and a folder of timm
  shows both by the name in its `config.json`.
- **refused**: the exporter does not build this network.

`resonnx-export module timm:NAME` exports all of them from timm's own code, also the refused ones; `make test-slow`
compares these too (tests/export/user_code/test_libraries.py).

| network | parameters | plain checkpoint |
|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What came of one network.

    Attributes:
        name: In timm.
        parameters: Their number.
        outcome: "equal", "option" or "refused"; "different" if the network is read as another and nothing tells it.
        detail: The option, or the reason.
    """

    name: str
    parameters: int
    outcome: str
    detail: str = ""

    def __str__(self) -> str:
        # Reasons for a refusal name shapes, which the page does not need.
        outcome = f"{self.outcome}: {self.detail}" if self.outcome == "option" else self.outcome
        return f"| `{self.name}` | {self.parameters / 1e6:.1f} M | {outcome} |"


def names() -> list[str]:
    """Return the names of the networks of at most MOST_PARAMETERS."""
    return [name for name in timm.list_models(module="resnet") if _parameters(name) <= MOST_PARAMETERS]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(each.numel() for each in timm.create_model(name).parameters())


@torch.no_grad()
def row(name: str, **arguments: Any) -> Row:
    """Compare one network; `arguments` are timm's, to make it smaller."""
    source = randomise(timm.create_model(name, **arguments))
    parameters = sum(each.numel() for each in source.parameters())
    state = source.state_dict()
    try:
        found = recognise_classifier(state)
    except BadInput as error:
        return Row(name, parameters, "refused", str(error))
    if _equal(found.network, source):
        return Row(name, parameters, "equal")
    kind = _anti_aliasing(source)
    listed = {each.name: each for each in found.assumptions}
    if kind in listed["anti-aliasing"].alternatives:
        del found
        if _equal(recognise_classifier(state, assume={"anti-aliasing": kind}).network, source):
            return Row(name, parameters, "option", f"`--assume anti-aliasing={kind}`")
    return Row(name, parameters, "different")


def _equal(network: nn.Module, source: nn.Module) -> bool:
    pictures = torch.randn(2, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(1))
    expected, found = source(pictures), network(pictures)
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _anti_aliasing(source: nn.Module) -> str:
    if any(isinstance(each, BlurPool2d) for each in source.modules()):
        return "blur"
    return "avg" if isinstance(source.get_submodule("maxpool"), nn.AvgPool2d) else "none"


def rows() -> Iterator[Row]:
    """Yield the row of each network, which takes some seconds."""
    for name in names():
        yield row(name)
        gc.collect()


def page() -> Iterator[str]:
    """Yield the lines of docs/timm.md."""
    yield HEAD.format(version=timm.__version__)
    for each in rows():
        yield f"{each}\n"


if __name__ == "__main__":
    for part in page():
        sys.stdout.write(part)
        sys.stdout.flush()
