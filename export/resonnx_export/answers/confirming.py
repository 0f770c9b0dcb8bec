"""Finds what answers that agree do not confirm: assumptions of which another value would give the same answers."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from resonnx_export.answers.alternatives import Change, listed_changes, picture_changes
from resonnx_export.answers.readings import Readings, rows_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import Subject
from resonnx_export.pictures.recipes import NORMALISATION, RESIZING, changed_assumptions
from resonnx_export.progress import Progress

# Another reading is dropped after the first of these numbers of pictures on which it does not agree: the first picture
# tells most of them from ours.
_TRIED: Final = (0, 1, 4, 16)
_SHOWN: Final = 4
_ALREADY_RESIZED: Final = "your answers were recorded for pixels and say nothing about it"
_OF_THE_RECORDER: Final = "your pixels were normalised by the recorder, so that your answers say nothing about it"


def unconfirmed(subject: Subject, answers: Answers, outputs: Any, progress: Progress) -> dict[str, str]:
    """Return the assumptions that answers do not confirm, by name, and why not.

    Every listed value of every assumption that the user did not state is tried. Assumptions without other values are
    confirmed by the agreement.

    Args:
        subject: A network that gives the answers.
        answers: The answers.
        outputs: Its outputs for them.
        progress: Called once.
    """
    reasons = dict(_out_of_reach(answers))
    changes = [(names, change) for names, change in _changes(subject, answers) if not names & reasons.keys()]
    progress(f"trying whether {len(changes)} other readings give your answers, too")
    readings = Readings(subject)
    found: dict[str, list[str]] = defaultdict(list)
    for names, change in changes:
        if _agrees(readings, change, subject, answers, outputs):
            for name in names:
                found[name].append(change.values.get(name, change.typed))
    whose = f"the first {_TRIED[-1]} of your answers" if len(answers) > _TRIED[-1] else "your answers"
    return reasons | {name: f"{whose} cannot tell it from {_listed(values)}" for name, values in found.items()}


def _out_of_reach(answers: Answers) -> Iterator[tuple[str, str]]:
    """Yield assumptions about the preprocessing that no recorded output depends on."""
    if not answers.are_files:
        yield RESIZING, _ALREADY_RESIZED
    if answers.preprocess == "assumed":
        yield from ((name, _OF_THE_RECORDER) for name in NORMALISATION)


def _changes(subject: Subject, answers: Answers) -> Iterator[tuple[set[str], Change]]:
    """Yield other readings, and the names of the assumptions that each of them contradicts; none of what was stated."""
    if subject.rebuild is not None:
        yield from (({change.axis}, change) for change in listed_changes(subject.assumptions))
    for change in picture_changes(subject.recipe, files=answers.are_files):
        changed = changed_assumptions(subject.assumptions, subject.recipe, change.input.apply(subject.recipe))
        if changed:
            yield changed, change


def _agrees(readings: Readings, change: Change, subject: Subject, answers: Answers, outputs: Any) -> bool:
    """Whether the answers would agree with another reading, as far as it is tried."""
    for start, end in pairwise(min(count, len(answers)) for count in _TRIED):
        if start == end:
            break
        others = readings.outputs(change, rows_of(answers, slice(start, end)))
        # All answers are judged, as the rule depends on the largest.
        if others is None or not subject.judge(answers, _replaced(outputs, start, others)).passed:
            return False
    return True


def _replaced(outputs: Any, start: int, others: Any) -> Any:
    if isinstance(outputs, np.ndarray):
        return np.concatenate([outputs[:start], others, outputs[start + len(others) :]])
    return [*outputs[:start], *others, *outputs[start + len(others) :]]


def _listed(values: Sequence[str]) -> str:
    more = f" and {len(values) - _SHOWN} others" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more
