"""Compares exports of timm's own code, and readings of plain checkpoints, with timm's ResNets.

`make timm` prints docs/timm.md; `python -m tests.export.layouts.timm_names NAME...` prints the lines of some networks.
"""

import gc
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from resonnx_export.errors import BadInput
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.pictures.recipe import image_input
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.reference import normalise
from resonnx_export.user_code.network import as_network, pictures
from resonnx_export.user_code.opened import Code, open_code
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
# Of the last normalisation of a block. Without it, random weights of 100 layers amplify float32's rounding to 1e-2.
_BRANCH: Final = 0.2

HEAD: Final = """\
# timm's ResNets

<!-- Made by `make timm`; `make test-slow` compares it with the code (tests/export/layouts/test_timm_names.py). -->

What `resonnx-export` makes of each network in `timm.list_models(module="resnet")` of up to 120 M parameters, with
random weights. timm {version}.

**`module timm:NAME`** runs timm's own code: the logits of the ONNX graph are compared with timm's, within 1e-4 of the
largest. **equal**: they are.

**Plain checkpoint**: `resonnx-export classifier` reads a state_dict; the network's logits are compared with timm's,
within 1e-4 of the largest.

- **equal**: no option is needed.
- **option**: the keys are those of another network. The output lists the property; with this option the logits are
  equal, without it they are not. A `.pth` file of `state_dict()` as it is shows `blur` by itself, and a folder of timm
  shows both by the name in its `config.json`.
- **refused**: the exporter does not build this network from its keys.

| network | parameters | `module timm:NAME` | plain checkpoint |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What came of one network.

    Attributes:
        name: In timm.
        parameters: Their number.
        module: What came of its export from timm's code: "equal" or "different".
        outcome: What its plain checkpoint is read as: "equal", "option" or "refused"; "different" if the network is
            read as another and nothing tells it.
        detail: The option, or the reason.
    """

    name: str
    parameters: int
    module: str
    outcome: str
    detail: str = ""

    def __str__(self) -> str:
        # Reasons for a refusal name shapes, which the page does not need.
        outcome = f"{self.outcome}: {self.detail}" if self.outcome == "option" else self.outcome
        return f"| `{self.name}` | {self.parameters / 1e6:.1f} M | {self.module} | {outcome} |"


def names() -> list[str]:
    """Return the names of the networks of at most MOST_PARAMETERS."""
    return [name for name in timm.list_models(module="resnet") if _parameters(name) <= MOST_PARAMETERS]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(each.numel() for each in timm.create_model(name).parameters())


def row(name: str, size: int = _SIZE, **arguments: Any) -> Row:
    """Compare one network on pictures of a size in pixels; `arguments` are timm's, to make the network smaller."""
    source = _calmed(randomise(timm.create_model(name, **arguments)))
    parameters = sum(each.numel() for each in source.parameters())
    return Row(name, parameters, exported(name, source, arguments, size), *_read(source))


def _calmed(source: nn.Module) -> nn.Module:
    for block in source.modules():
        last = getattr(block, "bn3", getattr(block, "bn2", None))
        if last is not None:
            last.weight *= _BRANCH
    return source


@torch.no_grad()
def exported(name: str, source: nn.Module, arguments: dict[str, Any], size: int) -> str:
    """Return "equal" if the ONNX graph of timm:NAME, with weights from a file, gives the source's logits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.pth"
        torch.save({"state_dict": source.state_dict()}, file)
        opened = open_code(Code(f"timm:{name}", arguments, file), None)
    recipe = image_input(size, resize_short_side=None)
    network = as_network(opened.module, pictures(size, size), source.get_parameter("fc.weight").shape[0], "softmax")
    graph = trace_classifier(network, recipe)
    del opened, network
    given = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    found = open_session(graph).run({"image": given}, ["logits"])["logits"]
    expected = source(normalise(given, recipe)).numpy()
    return "equal" if np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max() else "different"


@torch.no_grad()
def _read(source: nn.Module) -> tuple[str, str]:
    """Return the outcome of a plain checkpoint, and its detail."""
    state = source.state_dict()
    try:
        found = recognise_classifier(state)
    except BadInput as error:
        return "refused", str(error)
    if _equal(found.network, source):
        return "equal", ""
    kind = _anti_aliasing(source)
    listed = {each.name: each for each in found.assumptions}
    if kind in listed["anti-aliasing"].alternatives:
        del found
        if _equal(recognise_classifier(state, assume={"anti-aliasing": kind}).network, source):
            return "option", f"`--assume anti-aliasing={kind}`"
    return "different", ""


def _equal(network: nn.Module, source: nn.Module) -> bool:
    pictures = torch.randn(2, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(1))
    expected, found = source(pictures), network(pictures)
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _anti_aliasing(source: nn.Module) -> str:
    if any(isinstance(each, BlurPool2d) for each in source.modules()):
        return "blur"
    return "avg" if isinstance(source.get_submodule("maxpool"), nn.AvgPool2d) else "none"


def lines(names: Iterable[str]) -> Iterator[str]:
    """Yield the table's line of each network, which takes some seconds."""
    for name in names:
        yield f"{row(name)}\n"
        gc.collect()


def page() -> Iterator[str]:
    """Yield the lines of docs/timm.md."""
    yield HEAD.format(version=timm.__version__)
    yield from lines(names())


if __name__ == "__main__":
    for part in lines(sys.argv[1:]) if sys.argv[1:] else page():
        sys.stdout.write(part)
        sys.stdout.flush()
