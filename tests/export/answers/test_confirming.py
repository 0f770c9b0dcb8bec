"""What answers that agree confirm: an assumption is open while another of its values would give the same answers."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resonnx_export.answers.captions import network_captions
from resonnx_export.answers.confirming import unconfirmed
from resonnx_export.answers.judging import judge_classes
from resonnx_export.answers.pictures import pixels_of
from resonnx_export.answers.recorded import Answers, read_answers
from resonnx_export.answers.subject import Predict, Subject, captioner_subject, classifier_subject
from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.pictures.recipe import InputChanges, Size, image_input
from resonnx_export.pictures.recipes import NORMALISATION, RecipeChoice
from resonnx_export.progress import silent
from resonnx_export.proof.reference import Float
from resonnx_proto.v1 import manifest_pb2 as pb

from ..conftest import WORDS
from .conftest import RecordAnswers, resized, tensor_of

RECIPE = image_input(2, resize_short_side=2)
# Each picture is of one grey, its number.
PIXELS = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)


def network(values: Mapping[str, str]) -> Predict:
    """Return a function that notices `last` on the last picture alone, `first` on the first, and `none` never."""

    def predict(pixels: np.ndarray, recipe: pb.ImageInput) -> Float:
        numbers = pixels[:, 0, 0, :1].astype(np.float32)
        logits = np.concatenate([numbers, 20 - numbers], axis=1)
        for name, number in (("first", 0), ("sixth", 5), ("last", 19)):
            logits += 9 * (values.get(name) == "other") * (numbers == number)
        return logits

    return predict


def reasons(count: int, **confirmed: bool) -> dict[str, str]:
    names = ("first", "sixth", "last", "none")
    assumptions = [Assumption(name, "usual", "", ("other",), confirmed.get(name, False)) for name in names]
    subject = Subject(network({}), RECIPE, judge_classes, assumptions, network)
    answers = Answers("a.npz", PIXELS[:count], logits=network({})(PIXELS[:count], RECIPE))
    return unconfirmed(subject, answers, answers.logits, silent)


def test_what_no_answer_depends_on_is_open() -> None:
    found = reasons(8)
    assert found.pop("resizing")
    assert found == dict.fromkeys(("last", "none"), "your answers cannot tell it from other")


def test_a_value_that_was_stated_stays_confirmed() -> None:
    assert set(reasons(8, none=True)) == {"resizing", "last"}


def test_sixteen_pictures_are_tried() -> None:
    found = reasons(20)
    assert set(found) == {"resizing", "last", "none"}
    assert found["last"] == "the first 16 of your answers cannot tell it from other"


def recognised(network: ResNet, recipe: pb.ImageInput, preprocessing: tuple[Assumption, ...] = ()) -> Subject:
    state = network.state_dict()
    return classifier_subject(
        network,
        recipe,
        recognise_classifier(state).assumptions + preprocessing,
        lambda values: recognise_classifier(state, assume=values).network,
    )


def reasons_of(subject: Subject, answers: Answers) -> dict[str, str]:
    outputs = subject.predict(pixels_of(answers, subject.recipe), subject.recipe)
    assert subject.judge(answers, outputs).passed
    return unconfirmed(subject, answers, outputs, silent)


def test_an_epsilon_that_the_bound_does_not_separate(
    network: ResNet, recipe: pb.ImageInput, record_answers: RecordAnswers
) -> None:
    subject, answers = recognised(network, recipe), read_answers(record_answers())
    found = reasons_of(subject, answers)
    assert found.pop("bn-eps") == "your answers cannot tell it from 1e-06"
    assert set(found) == {"resizing"}, "pool, activation, strides and the others are noticed"


RGB = RecipeChoice(None, InputChanges(size=Size(32, 32)))
STRETCHED = RecipeChoice(None, InputChanges(size=Size(32, 32), stretch=True))
NO_EXIF = "your answers cannot tell it from --exif-orientation apply"


@pytest.mark.parametrize(
    ("preprocess", "as_files", "choice", "told"),
    [
        (tensor_of, False, RGB, {"resizing": "your answers were recorded for pixels and say nothing about it"}),
        (None, False, RGB, dict.fromkeys(NORMALISATION, "your pixels were normalised by the recorder")),
        (resized(), True, RGB, {"resizing": NO_EXIF}),
        (resized(), True, RecipeChoice(None, InputChanges(size=Size(32, 32), exif_orientation="ignore")), {}),
    ],
)
def test_what_answers_say_of_the_preprocessing(
    preprocess: Any,
    as_files: bool,
    choice: RecipeChoice,
    told: dict[str, str],
    network: ResNet,
    picture_files: list[bytes],
    pixels: np.ndarray,
    record_answers: RecordAnswers,
) -> None:
    chosen = choice.for_layout("torchvision")
    answers = read_answers(record_answers(preprocess, picture_files if as_files else pixels))
    found = reasons_of(classifier_subject(network, chosen.recipe, chosen.assumptions), answers)
    if not as_files:
        told = {"resizing": "your answers were recorded", **told}
    assert found.keys() == told.keys()
    assert all(found[name].startswith(told[name]) for name in told)


def test_grey_files_of_the_inputs_size_say_nothing_about_channels_and_resizing(
    network: ResNet, pixels: np.ndarray, record_answers: RecordAnswers
) -> None:
    files = []
    for picture in pixels:
        Image.fromarray(picture[..., :1].repeat(3, axis=2)).save(buffer := io.BytesIO(), "PNG")
        files.append(buffer.getvalue())
    chosen = STRETCHED.for_layout("torchvision")
    answers = read_answers(record_answers(tensor_of, files))
    found = reasons_of(classifier_subject(network, chosen.recipe, chosen.assumptions), answers)
    assert found.keys() == {"resizing", "channel-order"}
    assert found["channel-order"] == "your answers cannot tell it from --channel-order bgr"
    assert found["resizing"].startswith("your answers cannot tell it from --filter bicubic, --filter lanczos")


def test_black_pictures_say_nothing_about_the_scale(network: ResNet, record_answers: RecordAnswers) -> None:
    chosen = RecipeChoice(None, InputChanges(size=Size(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)).for_layout("none")
    subject = classifier_subject(network, chosen.recipe, chosen.assumptions)
    black = np.zeros((2, 32, 32, 3), np.uint8)
    answers = Answers("a.npz", black, logits=subject.predict(black, chosen.recipe))
    found = reasons_of(subject, answers)
    assert "--scale 255" in found["scale"]
    assert "channel-order" in found


def test_captions_that_are_all_alike_confirm_nothing(captioner: Captioner) -> None:
    recipe = image_input(32, resize_short_side=None)
    spec = pb.CaptionerSpec(vocabulary=WORDS, start_id=1, end_id=2, pad_id=0, stripped_ids=[1, 0], max_tokens=9)
    assumptions = (Assumption("channel-order", "rgb", "--channel-order", ("bgr",)),)
    subject = captioner_subject(captioner, recipe, spec, assumptions)

    def open_after(pixels: np.ndarray) -> bool:
        captions = network_captions(captioner, pixels, recipe, spec)
        texts = tuple(" ".join(WORDS[token] for token in caption.tokens if token > 2) for caption in captions)
        return "channel-order" in unconfirmed(subject, Answers("a.npz", pixels, captions=texts), captions, silent)

    red, grey = (np.full((3, 32, 32, 3), colour, np.uint8) for colour in ([250, 10, 0], [90, 90, 90]))
    assert open_after(grey)
    assert not open_after(red)
