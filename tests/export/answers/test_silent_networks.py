"""Networks whose keys are a plain ResNet's and whose arithmetic is not: answers catch them and name the option."""

import numpy as np
import pytest
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

from ..assumptions.silent_networks import SILENT, silent

RECIPE = image_input(64, resize_short_side=64)
PIXELS = np.random.default_rng(1).integers(0, 256, (6, 64, 64, 3), np.uint8)
# On these networks without a second block in a stage, dilation changes nothing but the stride.
EQUAL = {"dilation": "layer4"}, {"strides": "1-2-2-1"}
# Three properties at once.
NOT_FOUND = {"dilated, no pool, epsilon"}


def answers_of(network: nn.Module) -> Answers:
    with torch.no_grad():
        return Answers("answers.npz", PIXELS, logits=network(normalise(PIXELS, RECIPE)).numpy())


def subject_of(network: nn.Module) -> Subject:
    state = network.state_dict()
    recognised = recognise_classifier(state)
    return classifier_subject(
        recognised.network,
        RECIPE,
        recognised.assumptions,
        lambda values: recognise_classifier(state, assume=values).network,
    )


def searched(network: nn.Module) -> Searched:
    with pytest.raises(AnswersDiffer) as differs:
        require_agreement(subject_of(network), answers_of(network), no_progress)
    return differs.value.searched


def names(found: Searched, assume: dict[str, str]) -> bool:
    values = None if found.change is None else found.change.values
    return values == assume or (assume in EQUAL and values in EQUAL)


@pytest.mark.parametrize(
    "name",
    [
        "no pool",
        "epsilon",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SILENT if name not in NOT_FOUND),
    ],
)
def test_the_value_is_named(name: str) -> None:
    assert names(searched(silent(name)), SILENT[name][0])


@pytest.mark.slow
def test_the_share_that_is_caught_and_named() -> None:
    found = {name: searched(silent(name)) for name in SILENT}
    named = [name for name in SILENT if names(found[name], SILENT[name][0])]
    assert len(found) == len(SILENT), "all are caught"
    assert set(SILENT) - set(named) == NOT_FOUND
    assert len(named) >= 0.8 * len(SILENT)
