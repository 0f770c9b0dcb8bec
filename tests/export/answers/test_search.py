"""The search of another reading: single changes, then pairs, screened on few pictures and confirmed on all."""

from collections.abc import Mapping

import numpy as np
import pytest
from resonnx_export.answers.judging import judge_classes
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.search import search
from resonnx_export.answers.subject import Predict, Subject
from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import image_input
from resonnx_export.progress import silent
from resonnx_export.proof.reference import Float, normalise
from resonnx_proto.v1 import manifest_pb2 as pb

RECIPE = image_input(4, resize_short_side=4)
PIXELS = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), np.uint8)
ASSUMPTIONS = (
    Assumption("power", "1", "--assume power=VALUE", ("2", "3")),
    Assumption("shift", "0", "--assume shift=VALUE", ("1", "2", "9")),
    Assumption("sign", "plus", "--minus", ("minus",)),
)


def network(values: Mapping[str, str]) -> Predict:
    """Return a function of pixels with three properties."""
    read = {"power": "1", "shift": "0", "sign": "plus", **values}
    if read["shift"] == "9":
        raise BadInput("this network has no shift of 9")

    def predict(pixels: np.ndarray, recipe: pb.ImageInput) -> Float:
        flat = normalise(pixels, recipe).numpy().reshape(len(pixels), -1)[:, ::5]
        logits: Float = (flat + np.float32(read["shift"])) ** int(read["power"])
        return -logits if read["sign"] == "minus" else logits

    return predict


def subject(**given: str) -> Subject:
    return Subject(network(given), RECIPE, judge_classes, ASSUMPTIONS, lambda values: network({**given, **values}))


def answers(**values: str) -> Answers:
    return Answers("answers.npz", PIXELS, logits=network(values)(PIXELS, RECIPE))


@pytest.mark.parametrize(
    ("values", "typed"),
    [
        ({"power": "2"}, "--assume power=2"),
        ({"sign": "minus"}, "--minus"),
        ({"power": "3", "shift": "2"}, "--assume power=3 --assume shift=2"),
        ({"sign": "minus", "shift": "1"}, "--assume shift=1 --minus"),
    ],
)
def test_what_is_named_is_what_differs(values: dict[str, str], typed: str) -> None:
    found = search(subject(), answers(**values), silent)
    assert found.change is not None
    assert found.change.values == values
    assert sorted(found.change.typed.split()) == sorted(typed.split())
    assert found.judged is not None
    assert found.judged.passed
    assert found.judged.check.pictures == len(PIXELS)


def test_three_changes_are_not_searched() -> None:
    found = search(subject(), answers(power="2", shift="1", sign="minus"), silent)
    assert found.change is None
    assert found.complete


def test_what_agrees_on_the_screened_pictures_alone_is_not_named() -> None:
    recorded = answers(power="2")
    assert recorded.logits is not None
    recorded.logits[5] += 1
    assert search(subject(), recorded, silent).change is None


def test_a_network_in_memory_has_changes_of_preprocessing_alone() -> None:
    own = Subject(network({}), RECIPE, judge_classes, ASSUMPTIONS)
    found = search(own, answers(power="2"), silent)
    assert found.change is None
    bgr = Answers("answers.npz", np.ascontiguousarray(PIXELS[..., ::-1]), logits=network({})(PIXELS, RECIPE))
    found = search(own, bgr, silent)
    assert found.change is not None
    assert found.change.typed == "--channel-order bgr"


def test_pairs_have_a_limit_of_time() -> None:
    ticks = iter([0.0, 1.0, 1000.0])
    found = search(subject(), answers(power="3", shift="2", sign="minus"), silent, clock=lambda: next(ticks))
    assert not found.complete
    assert found.change is None
