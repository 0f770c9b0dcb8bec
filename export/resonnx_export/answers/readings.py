"""The outputs of other readings of a file: those of a subject with changes."""

from dataclasses import replace
from typing import Any

from resonnx_export.answers.alternatives import Change
from resonnx_export.answers.pictures import pixels_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import Predict, Subject
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import InputChanges


class Readings:
    """Computes outputs of changed readings; the network that was built last is kept for changes of the same values."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._built: tuple[dict[str, str], Predict | None] = ({}, subject.predict)

    def outputs(self, change: Change, answers: Answers) -> Any:
        """Return the outputs for recorded pictures; None if the change does not apply to the network or its input."""
        predict = self._network(change.values)
        if predict is None:
            return None
        try:
            # A network over features has no recipe to change.
            unchanged = change.input == InputChanges()
            recipe = self._subject.recipe if unchanged else change.input.apply(self._subject.recipe)
            return predict(pixels_of(answers, recipe), recipe)
        except (BadInput, RuntimeError):
            # A network whose feature map vanishes, for instance.
            return None

    def _network(self, values: dict[str, str]) -> Predict | None:
        if self._built[0] != values:
            # The last network is freed before the next one is built.
            self._built = ({}, self._subject.predict)
            self._built = (values, self._rebuilt(values))
        return self._built[1]

    def _rebuilt(self, values: dict[str, str]) -> Predict | None:
        if not values:
            return self._subject.predict
        assert self._subject.rebuild is not None
        try:
            return self._subject.rebuild(values)
        except (BadInput, RuntimeError):
            return None


def rows_of(answers: Answers, rows: slice) -> Answers:
    """Return some of the pictures and their answers."""

    def some(values: Any) -> Any:
        return None if values is None else values[rows]

    return replace(
        answers,
        pixels=some(answers.pixels),
        images=answers.images[rows],
        inputs=some(answers.inputs),
        logits=some(answers.logits),
        tokens=some(answers.tokens),
        captions=answers.captions[rows],
        clips=some(answers.clips),
    )
