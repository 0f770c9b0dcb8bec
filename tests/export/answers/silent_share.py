"""Compares networks that a file shows as plain ResNets with answers, and prints docs/silent.md (`make silent`)."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from resonnx_export.answers.agreement import AnswersDiffer, require_agreement
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.search import Searched
from resonnx_export.answers.subject import Subject, classifier_subject
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.pictures.recipe import image_input
from resonnx_export.progress import silent as no_progress
from resonnx_export.proof.reference import normalise
from torch import nn

from ..assumptions.silent_networks import SILENT
from ..layouts.classifier_sources import randomise

# After torchvision_oracle, as timm imports torchvision.
import timm  # isort: skip

RECIPE: Final = image_input(64, resize_short_side=64)
PIXELS: Final = np.random.default_rng(1).integers(0, 256, (6, 64, 64, 3), np.uint8)
# On these networks without a second block in a stage, dilation changes nothing but the stride.
EQUAL: Final = {"dilation": "layer4"}, {"strides": "1-2-2-1"}

HEAD: Final = """\
# Networks that a file does not tell from a plain ResNet

<!-- Made by `make silent`; `make test-slow` compares it with the code (tests/export/answers). -->

The keys and shapes of these networks are those of a plain ResNet, and their arithmetic is not. `--expect` compares
our reading of the plain state_dict with answers of the network itself (random weights, {pictures} pictures) and
searches the option that makes it agree: with it our network gives the answers, and without it not.

| network | options that are right | caught | named |
|---|---|---|---|
"""


def _timm(name: str) -> nn.Module:
    network: nn.Module = timm.create_model(name, layers=(1, 1, 1, 1), num_classes=5)
    return network


# The properties' right values, and the network.
CASES: Final[dict[str, tuple[dict[str, str], Callable[[], nn.Module]]]] = {
    **SILENT,
    "timm's `resnetaa50`": ({"anti-aliasing": "avg"}, lambda: _timm("resnetaa50")),
    "timm's `resnetblur50`": ({"anti-aliasing": "blur"}, lambda: _timm("resnetblur50")),
}


@dataclass(frozen=True)
class Row:
    """What came of one network.

    Attributes:
        name: Of CASES.
        values: The right ones.
        searched: The search after the answers differed; None if they did not.
    """

    name: str
    values: dict[str, str]
    searched: Searched | None

    @property
    def named(self) -> bool:
        """Whether the right values are named."""
        change = None if self.searched is None else self.searched.change
        values: Any = None if change is None else change.values
        return bool(values == self.values or (self.values in EQUAL and values in EQUAL))

    def __str__(self) -> str:
        right = " ".join(f"`--assume {name}={value}`" for name, value in self.values.items())
        return f"| {self.name} | {right} | {_word(self.searched is not None)} | {_word(self.named)} |"


def _word(value: bool) -> str:
    return "yes" if value else "no"


def row(name: str) -> Row:
    """Compare one network of CASES."""
    values, build = CASES[name]
    network = randomise(build())
    with torch.no_grad():
        answers = Answers("answers.npz", PIXELS, logits=network(normalise(PIXELS, RECIPE)).numpy())
    try:
        require_agreement(_subject(network), answers, no_progress)
    except AnswersDiffer as differs:
        return Row(name, values, differs.searched)
    return Row(name, values, None)


def _subject(network: nn.Module) -> Subject:
    state = network.state_dict()
    recognised = recognise_classifier(state)
    return classifier_subject(
        recognised.network,
        RECIPE,
        recognised.assumptions,
        lambda values: recognise_classifier(state, assume=values).network,
    )


def page() -> Iterator[str]:
    """Yield the lines of docs/silent.md; each network takes some seconds, up to two minutes where none is named."""
    yield HEAD.format(pictures=len(PIXELS))
    rows = []
    for name in CASES:
        rows.append(row(name))
        yield f"{rows[-1]}\n"
    caught, named = sum(each.searched is not None for each in rows), sum(each.named for each in rows)
    yield f"\n{caught} of {len(rows)} are caught, and the right options are named for {named} of them.\n"
    yield "The search changes one or two properties of our reading, not three.\n"


if __name__ == "__main__":
    for part in page():
        sys.stdout.write(part)
        sys.stdout.flush()
