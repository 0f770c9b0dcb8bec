"""Requires that a network gives the user's answers; if not, says which other reading of its file does."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from resonnx_server.runtime.model_files.golden_examples import judge_logits

from resonnx_export.answers.confirming import unconfirmed
from resonnx_export.answers.judging import Judged, bound_of
from resonnx_export.answers.pictures import pixels_of, preprocessing_note
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.search import Searched, search
from resonnx_export.answers.subject import Subject
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.progress import Progress


class AnswersDiffer(ParityFailed):
    """The network does not give the user's answers.

    Attributes:
        searched: The other readings that were tried.
    """

    def __init__(self, message: str, judged: Judged, searched: Searched) -> None:
        super().__init__(message, judged.check)
        self.searched = searched


@dataclass(frozen=True)
class Agreed:
    """A network that gives the user's answers.

    Attributes:
        answers: Theirs.
        unconfirmed: Why they do not confirm an assumption, by its name.
        notes: Lines for the user.
    """

    answers: Answers
    unconfirmed: Mapping[str, str]
    notes: tuple[str, ...]


def require_agreement(subject: Subject, answers: Answers, progress: Progress) -> Agreed:
    """Compare a network with the user's answers, before it is traced.

    Raises:
        BadInput: The answers are not for such a network or its input.
        AnswersDiffer: The outputs differ; the message names the change of the reading that makes them agree, if any.
    """
    progress(f"your answers to {len(answers)} {'pictures' if answers.clips is None else 'clips'}")
    pixels = pixels_of(answers, subject.recipe)
    note = preprocessing_note(answers, pixels, subject.recipe)
    outputs = subject.predict(pixels, subject.recipe)
    judged = subject.judge(answers, outputs)
    _refuse_alike(answers)
    if not judged.passed:
        searched = search(subject, answers, progress)
        difference = f"the network does not give your answers in {answers.name}: {judged.detail}"
        details = (difference, note, explanation(subject, answers, searched), "nothing was written")
        raise AnswersDiffer("; ".join(filter(None, details)), judged, searched)
    notes = [f"your answers: {answers}, {judged.detail}"]
    if note:
        notes.append(note)
    if answers.ignored:
        shown = ", ".join(name[:32] for name in answers.ignored[:4])
        notes.append(f"{answers.name}: arrays that are not read: {shown}")
    return Agreed(answers, unconfirmed(subject, answers, outputs, progress), tuple(notes))


def _refuse_alike(answers: Answers) -> None:
    """Raise BadInput if answers to different pictures agree with each other: any network with these would be equal."""
    logits = answers.logits
    if logits is None or len(logits) < 2:
        return
    if judge_logits(logits, np.roll(logits, 1, axis=0), bound_of(answers)).passed:
        raise BadInput(
            f"{answers.name}: the logits of all pictures are alike, so that they tell no network from another; record "
            "pictures of different classes"
        )


def explanation(subject: Subject, answers: Answers, searched: Searched) -> str:
    """Return the change that makes the network give the answers, or what else the user may try."""
    if searched.change is not None and searched.judged is not None:
        return f"with {searched.change.typed} it does ({searched.judged.detail})"
    missing = "" if searched.complete else "; not all pairs were tried, as that took too long"
    lines = [f"none of {searched.tried} other readings does (one or two other values of what was assumed{missing})"]
    if subject.rebuild is not None:
        lines.append("if the recorded model is this checkpoint's, export it from its code: resonnx-export module")
    if answers.exact and not (answers.device and answers.dtype):
        lines.append(
            "the file does not say how it was recorded; for a GPU or reduced precision, add device and dtype to it"
        )
    return "; ".join(lines)
