"""Searches the readings near ours for one that agrees with the user's answers."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from resonnx_export.answers.alternatives import Change, network_changes, picture_changes
from resonnx_export.answers.judging import Judged
from resonnx_export.answers.readings import Readings, rows_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import Subject
from resonnx_export.progress import Progress

# Readings are screened on so many pictures.
_SCREENED: Final = 4
# No new pair is tried after so many seconds.
_PAIRS_S: Final = 120.0


@dataclass(frozen=True)
class Searched:
    """The result of a search.

    Attributes:
        change: The change that makes the reading agree; None if no reading that was tried does.
        judged: Its comparison on all pictures.
        tried: The number of readings.
        complete: Whether all pairs of changes were tried.
    """

    change: Change | None
    judged: Judged | None
    tried: int
    complete: bool


class _Trial:
    """Judges changes of a subject on some pictures."""

    def __init__(self, subject: Subject, answers: Answers) -> None:
        self._subject, self._all = subject, answers
        self._few = rows_of(answers, slice(_SCREENED))
        self._readings = Readings(subject)
        self.tried = 0

    def screen(self, change: Change) -> Judged | None:
        """Return the comparison on few pictures; None if the change does not apply to the network."""
        self.tried += 1
        return self._judge(change, self._few)

    def confirm(self, change: Change) -> Judged | None:
        """Return the comparison on all pictures if the change makes them agree."""
        judged = self._judge(change, self._all)
        return judged if judged is not None and judged.passed else None

    def _judge(self, change: Change, answers: Answers) -> Judged | None:
        outputs = self._readings.outputs(change, answers)
        return None if outputs is None else self._subject.judge(answers, outputs)


def search(
    subject: Subject, answers: Answers, progress: Progress, *, clock: Callable[[], float] = time.monotonic
) -> Searched:
    """Try all single changes of our reading, then pairs, the most promising first.

    Screens on few pictures and confirms on all. Of several single changes that agree, the closest is taken.
    """
    trial = _Trial(subject, answers)
    changes = [*network_changes(subject.assumptions)] if subject.rebuild is not None else []
    changes += picture_changes(subject.recipe, files=answers.are_files)
    progress(f"trying {len(changes)} other readings")
    singles = [(change, judged) for change in changes if (judged := trial.screen(change)) is not None]
    agreeing = [(change, judged) for change, judged in singles if judged.passed]
    if found := _closest(trial, (change for change, _ in agreeing)):
        return Searched(*found, trial.tried, complete=True)
    pairs = _pairs(singles)
    progress(f"trying {len(pairs)} pairs of other readings")
    until = clock() + _PAIRS_S
    for pair in pairs:
        if clock() > until:
            return Searched(None, None, trial.tried, complete=False)
        judged = trial.screen(pair)
        if judged is not None and judged.passed and (found := _closest(trial, [pair])):
            return Searched(*found, trial.tried, complete=True)
    return Searched(None, None, trial.tried, complete=True)


def _closest(trial: _Trial, changes: Iterable[Change]) -> tuple[Change, Judged] | None:
    confirmed = [(change, judged) for change in changes if (judged := trial.confirm(change)) is not None]
    return min(confirmed, key=lambda each: each[1].deviation, default=None)


def _pairs(singles: Sequence[tuple[Change, Judged]]) -> list[Change]:
    """Return pairs of changes of different axes: first of those that come closest alone."""
    ranked = [change for change, _ in sorted(singles, key=lambda single: single[1].deviation)]
    pairs = []
    for place, second in enumerate(ranked):
        # Partners that keep the network come first, so that it is built once for all of them.
        for first in sorted(ranked[:place], key=lambda partner: bool(partner.values)):
            if first.axis != second.axis:
                pairs.append(second.joined(first))
    return pairs
