"""The pictures whose two answers lie farthest apart, with both answers side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.proof.predictions import Answers, CaptionerAnswers, ClassifierAnswers, Tokens, worst_first
from resonnx_export.proof.reference import Activation, Float
from resonnx_export.report.pictures import picture_uri

# Of the kind that the model is meant for, and as many synthetic ones.
MOST_PICTURES: Final = 4
_TOP: Final = 3


@dataclass(frozen=True)
class ClassRow:
    """One class in both answers. Scores are in words, `difference` is of the logits."""

    label: str
    expected: str
    found: str
    difference: float
    expected_first: bool
    found_first: bool


@dataclass(frozen=True)
class Word:
    """One word, and whether the other caption has another in its place."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Compared:
    """A picture with both answers: class by class, or two captions.

    Attributes:
        picture: As the model sees it, a data: URI.
        width, height: Of what the model sees, in pixels.
        changed: Whether the answers differ.
        difference: The greatest of its differences; None where none could be compared.
        classes: Of a classifier.
        expected, found: Of a captioner.
    """

    picture: str
    width: int
    height: int
    changed: bool
    difference: float | None
    classes: tuple[ClassRow, ...] = ()
    expected: tuple[Word, ...] = ()
    found: tuple[Word, ...] = ()


def worst_pictures(answers: Answers, manifest: pb.Manifest, *, typical: bool) -> list[Compared]:
    """Return up to MOST_PICTURES, the worst first: of the kind that the model is meant for, or of the synthetic."""
    rows = [row for row in worst_first(answers) if (row in answers.pictures.typical) == typical]
    return [compare_picture(answers, manifest, row) for row in rows[:MOST_PICTURES]]


def compare_picture(answers: Answers, manifest: pb.Manifest, row: int) -> Compared:
    """Return the picture in `row` with both answers."""
    pixels, differences = answers.pictures.pixels[row], answers.differences[row]
    classes: tuple[ClassRow, ...] = ()
    expected: tuple[Word, ...] = ()
    found: tuple[Word, ...] = ()
    if isinstance(answers, ClassifierAnswers):
        classes = _classes(answers, manifest.classifier, row)
    else:
        expected, found = _captions(answers, manifest.captioner, row)
    return Compared(
        picture=picture_uri(pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
        changed=bool(answers.changed[row]),
        difference=float(differences.max()) if len(differences) else None,
        classes=classes,
        expected=expected,
        found=found,
    )


def _classes(answers: ClassifierAnswers, spec: pb.ClassifierSpec, row: int) -> tuple[ClassRow, ...]:
    """Return the top classes of either answer, the original's best first."""
    expected, found = answers.expected[row], answers.found[row]
    top = {*np.argsort(-expected, kind="stable")[:_TOP].tolist(), *np.argsort(-found, kind="stable")[:_TOP].tolist()}
    names = {i: spec.labels[i] for i in top}
    shown_expected, shown_found = (_scores(logits, spec.activation) for logits in (expected, found))
    return tuple(
        ClassRow(
            label=names[i],
            expected=_told(shown_expected[i], spec.activation),
            found=_told(shown_found[i], spec.activation),
            difference=float(found[i] - expected[i]),
            expected_first=i == int(expected.argmax()),
            found_first=i == int(found.argmax()),
        )
        for i in sorted(top, key=lambda i: -expected[i])
    )


def _scores(logits: Float, activation: Activation) -> Float:
    if activation == pb.ClassifierSpec.ACTIVATION_NONE:
        return logits
    if activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
        return np.exp(-np.logaddexp(0, -logits))
    raised = np.exp(logits - logits.max())
    probabilities: Float = raised / raised.sum()
    return probabilities


def _told(score: np.float32, activation: Activation) -> str:
    return f"{score:.4g}" if activation == pb.ClassifierSpec.ACTIVATION_NONE else f"{100 * score:.2f} %"


def _captions(answers: CaptionerAnswers, spec: pb.CaptionerSpec, row: int) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    expected, found = (words(tokens, spec) for tokens in (answers.expected[row], answers.found[row]))
    pairs = list(zip_longest(expected, found))
    return (
        tuple(Word(ours, ours != theirs) for ours, theirs in pairs if ours is not None),
        tuple(Word(theirs, ours != theirs) for ours, theirs in pairs if theirs is not None),
    )


def words(tokens: Tokens, spec: pb.CaptionerSpec) -> Sequence[str]:
    """Return the words that a caption shows: without its end and what the manifest strips."""
    hidden = {spec.end_id, *spec.stripped_ids}
    return [spec.vocabulary[token] for token in tokens.tolist() if token not in hidden]
