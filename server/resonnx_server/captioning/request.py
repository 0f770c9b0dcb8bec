"""One picture on its way to its captions."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.stats import Timing
from resonnx_server.runtime.decoding.search import Search
from resonnx_server.runtime.decoding.sequence import Sequence as Caption
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.pictures.images import Pixels

OnWords = Callable[[list[Token]], None]


@dataclass(frozen=True, slots=True)
class Captioned:
    """A finished request: captions with the scores that rank them, best first, and where its time went."""

    ranked: list[tuple[Caption, float]]
    timing: Timing


@dataclass(slots=True, eq=False)
class CaptionTask:
    """One request. Its times are those of its encoder batch and of all steps that it took part in.

    Attributes:
        expected_steps: Tokens that it was expected to have when it came.
        least_steps: Tokens that it must have, by its request.
        most_steps: Tokens that it may have.
        rows: Its decode slots; see SlotRows.
        steps: Tokens decoded so far.
        has_word: Its first word has been told.
    """

    image: Pixels
    search: Search
    wants_attention: bool
    future: "asyncio.Future[Captioned]"
    on_words: OnWords | None
    arrival_ns: int
    deadline_ns: int | None
    expected_steps: int
    least_steps: int
    most_steps: int
    rows: list[int] = field(default_factory=list)
    steps: int = 0
    has_word: bool = False
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    batch_rows: int = 0

    def is_wanted(self, now_ns: int) -> bool:
        """Whether anybody still waits for it."""
        return not self.future.done() and (self.deadline_ns is None or now_ns < self.deadline_ns)

    def take_word(self, choices: StepOutput, rows: Sequence[int], *, whole: bool) -> Sequence[int]:
        """Let its search read a step.

        Args:
            choices: Of all rows of the step.
            rows: Which of them are its own.
            whole: It chooses from all tokens, as its search said.

        Returns:
            For each row of the next step, which of `rows` (an index into it) its state comes from.

        Raises:
            InferenceFailed: The model gave no probabilities in its rows.
        """
        if not all(choices.is_sound(row, whole=whole) for row in rows):
            raise InferenceFailed("the model gave values that are no probabilities")
        self.steps += 1
        return self.search.advance(choices, rows)

    def result(self) -> Captioned:
        """Return what its finished search found."""
        timing = Timing(self.queue_ns, self.input_ns, self.infer_ns, 0, self.batch_rows)
        return Captioned(self.search.ranked(), timing)


@dataclass(slots=True)
class Encoded:
    """A picture that joins the decoding: row `row` of the states and features that its encoder batch gave.

    They are what the engine's graphs give and its slots take: arrays, or tensors on a device.
    """

    task: CaptionTask
    state: Sequence[Any]
    features: Sequence[Any]
    row: int
