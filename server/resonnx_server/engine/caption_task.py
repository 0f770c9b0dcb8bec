"""One picture on its way to its captions, and what a job on a lane has to tell the event loop about such."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonnx_server.errors import DeadlineExceeded, ServerError
from resonnx_server.observe.stats import ModelStats, StepCount, Timing
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.search import Search
from resonnx_server.runtime.sequence import Sequence as Caption
from resonnx_server.runtime.sequence import Token

_log = logging.getLogger(__name__)

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

    def advanced(self, task: CaptionTask, now_ns: int) -> None:
        """Note what a step brought a caption: certain words, and its first."""
        task.steps += 1
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
        """Tell callers and counters; on the event loop."""
        for ns in self.first_words_ns:
            stats.first_word(ns)
        for step in self.steps:
            stats.step_done(step)
        for task, words in self.words:
            if task.on_words is None or task.future.done():
                continue
            try:
                task.on_words(words)
            except Exception:  # the boundary of one caption: what others are told is behind it
                _log.exception("a caption's words could not be told")
                task.future.set_exception(ServerError("internal error"))
        for task, outcome in self.finished:
            if task.future.done():
                continue
            if isinstance(outcome, ServerError):
                task.future.set_exception(outcome)
            else:
                task.future.set_result(outcome)
