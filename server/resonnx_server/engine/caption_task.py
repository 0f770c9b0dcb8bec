"""One picture on its way to its captions, and what a job on a lane has to tell the event loop about such."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resonnx_server.errors import DeadlineExceeded, InferenceFailed, ServerError
from resonnx_server.observe.stats import BatchCount, ModelStats, StepCount, Timing, count_all
from resonnx_server.runtime.choices import Choices
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.search import Search
from resonnx_server.runtime.sequence import Sequence as Caption
from resonnx_server.runtime.sequence import Token

_log = logging.getLogger(__name__)

OnWords = Callable[[list[Token]], None]


def failure_of_one(error: Exception) -> InferenceFailed:
    """Return what a caller is told of what went wrong with its caption alone.

    It has none of the error's frames, which hold pictures. Nobody may keep `error` itself beyond its except clause:
    frames lead on to those that called them, and so back to whoever keeps it.
    """
    if isinstance(error, InferenceFailed):
        return InferenceFailed(error.message)
    _log.error("a caption could not be decoded", exc_info=error)
    return InferenceFailed("the caption could not be decoded")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A finished request: captions with the scores that rank them, best first, and where its time went."""

    ranked: list[tuple[Caption, float]]
    timing: Timing


@dataclass(slots=True, eq=False)
class CaptionTask:
    """One request. Its times are those of its encoder batch and of all steps that it took part in.

    Attributes:
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

    def take_word(self, choices: Choices, rows: Sequence[int], *, whole: bool) -> Sequence[int]:
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


@dataclass(slots=True)
class Events:
    """What one or more jobs have to tell the loop, in order."""

    words: list[tuple[CaptionTask, list[Token]]] = field(default_factory=list)
    finished: list[tuple[CaptionTask, Captioned | ServerError]] = field(default_factory=list)
    first_words_ns: list[int] = field(default_factory=list)
    steps: list[StepCount] = field(default_factory=list)
    batches: list[BatchCount] = field(default_factory=list)

    def advanced(self, task: CaptionTask, now_ns: int) -> None:
        """Note what a step brought a caption: certain words, and its first."""
        if task.on_words is None and task.has_word:
            return
        if words := task.search.certain():
            if not task.has_word:
                task.has_word = True
                self.first_words_ns.append(now_ns - task.arrival_ns)
            if task.on_words is not None:
                self.words.append((task, words))

    def failed(self, task: CaptionTask, error: ServerError) -> None:
        """Note that a request ends with an error."""
        self.finished.append((task, error))

    def too_late(self, task: CaptionTask) -> None:
        """Note that a request's time is over (or its caller gone, who hears of nothing)."""
        self.failed(task, DeadlineExceeded("the deadline passed before the caption was finished"))

    def deliver(self, stats: ModelStats) -> None:
        """Tell callers and counters; on the event loop. What goes wrong with one leaves out no other."""
        for task, words in self.words:
            _tell(task, words)
        for task, outcome in self.finished:
            _end(task, outcome)
        count_all(
            *(partial(stats.batch_done, *batch) for batch in self.batches),
            *(partial(stats.first_word, ns) for ns in self.first_words_ns),
            *(partial(stats.step_done, step) for step in self.steps),
        )


def _tell(task: CaptionTask, words: list[Token]) -> None:
    if task.on_words is None or task.future.done():
        return
    try:
        task.on_words(words)
    except (Exception, asyncio.CancelledError):  # the boundary of one caption: what others are told is behind it
        _log.exception("a caption's words could not be told")
        _end(task, ServerError("internal error"))


def _end(task: CaptionTask, outcome: Captioned | ServerError) -> None:
    if task.future.done():
        return
    if isinstance(outcome, ServerError):
        task.future.set_exception(outcome)
    else:
        task.future.set_result(outcome)
