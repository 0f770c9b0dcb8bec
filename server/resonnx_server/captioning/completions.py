"""What jobs on lanes have to tell the event loop about captions, and how it is told: member by member.

What goes wrong with one caption, its caller or a counter leaves out no other.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from resonnx_server.captioning.request import Captioned, CaptionTask
from resonnx_server.errors import DeadlineExceeded, InferenceFailed, ServerError
from resonnx_server.observe.stats import BatchCount, ModelStats, StepCount, count_all
from resonnx_server.runtime.decoding.sequence import Token

_log = logging.getLogger(__name__)

# Steps whose counts may wait for something worth waking the loop for.
_UNTOLD_STEPS: Final = 16


def failure_of_one(error: Exception) -> InferenceFailed:
    """Return what a caller is told of what went wrong with its caption alone.

    It has none of the error's frames, which hold pictures. Nobody may keep `error` itself beyond its except clause:
    frames lead on to those that called them, and so back to whoever keeps it.
    """
    if isinstance(error, InferenceFailed):
        _log.error("a caption failed", extra={"error": error.message})
        return InferenceFailed(error.message)
    _log.error("a caption could not be decoded", exc_info=error)
    return InferenceFailed("the caption could not be decoded")


@dataclass(slots=True)
class Completions:
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


class Outbox:
    """Where events go.

    Args:
        loop: Where they are delivered.
        stats: The model's counters.

    Attributes:
        untold: What steps have to tell; owned by the step under way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stats: ModelStats) -> None:
        self._loop, self._stats = loop, stats
        self.untold = Completions()

    def tell(self) -> None:
        """Post what steps had to tell, if it is worth waking the loop; by the step under way."""
        events = self.untold
        if events.words or events.finished or events.first_words_ns or len(events.steps) >= _UNTOLD_STEPS:
            self.untold = Completions()
            self.post(events)

    def post(self, events: Completions) -> None:
        """Deliver `events` on the event loop."""
        self._loop.call_soon_threadsafe(events.deliver, self._stats)
