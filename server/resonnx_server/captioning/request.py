"""One caption request, its result, and what the lanes send to callers and counters through the event loop."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.drift.drift import Watch
from resonnx_server.errors import InferenceFailed, InferenceHung, ServerError
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.requests.identity import Identity, ids_of
from resonnx_server.observe.stats import BatchCount, ModelStats, StepCount, Timing, count_all
from resonnx_server.runtime.decoding.beams import BeamSearch
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.sampling import Sampling
from resonnx_server.runtime.decoding.search import DecodeOptions, Search
from resonnx_server.runtime.decoding.sequence import Sequence as Caption
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.sharing import Turn

_log = logging.getLogger(__name__)

# Step counts that are sent together if no result wakes the event loop.
_PENDING_STEPS: Final = 16

OnWords = Callable[[list[Token]], None]


def start_search(spec: CaptionerSpec, options: DecodeOptions) -> Search:
    """Return the search of the options' kind, at its start."""
    if options.temperature > 0:
        return Sampling(spec, options)
    return BeamSearch(spec, options) if options.beam_width > 1 else Greedy(spec, options)


@dataclass(frozen=True)
class CaptionerInfo:
    """The limits of a captioner's requests: its special tokens and vocabulary, token ids by word, and decode slots."""

    spec: CaptionerSpec
    word_ids: Mapping[str, int]
    capacity: int


class CaptionCost(NamedTuple):
    """The size of a request: pictures, all captioned with the same options."""

    pictures: int
    options: DecodeOptions


class CaptionWork(NamedTuple):
    """One picture to caption.

    Attributes:
        image: uint8 [H,W,3], as the manifest's input says.
        options: Decoding options; beam_width at most the slots.
        on_words: Called on the event loop with words that join the stable prefix of the best caption.
    """

    image: Pixels
    options: DecodeOptions
    on_words: OnWords | None = None


@dataclass(frozen=True, slots=True)
class Captioned:
    """A finished request: captions with their ranking scores, best first, and where its time went.

    Attributes:
        encoded_ns: When its encoder batch had run, monotonic.
        ended_ns: When its last step had run.
        steps: Its steps.
    """

    ranked: list[tuple[Caption, float]]
    timing: Timing
    encoded_ns: int = 0
    ended_ns: int = 0
    steps: int = 0


@dataclass(slots=True, eq=False)
class CaptionTask:
    """One request. Its times are those of its encoder batch and of all its steps.

    Attributes:
        expected_steps: Tokens expected on arrival.
        turn: Its priority and caller.
        rows: Its decode slots; see slots.Owner.
        steps: Tokens decoded so far.
        has_word: Its first word has been counted.
        end_ns: When its latest run was over (monotonic).
        identity: What the request is called; None for runs that no caller asked for.
    """

    image: Pixels
    options: DecodeOptions
    on_words: OnWords | None
    search: Search
    future: "asyncio.Future[Captioned]"
    arrival_ns: int
    deadline_ns: int | None
    expected_steps: int
    turn: Turn
    rows: list[int] = field(default_factory=list)
    steps: int = 0
    has_word: bool = False
    queue_ns: int = 0
    start_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    end_ns: int = 0
    batch_rows: int = 0
    encoded_ns: int = 0
    identity: Identity | None = None


@dataclass(slots=True)
class Encoded:
    """An encoded picture that joins the decoding: row `row` of its batch's states and features.

    These are arrays, or tensors on a device, as the engine's graphs give and its slots take them.
    """

    task: CaptionTask
    state: Sequence[Any]
    features: Sequence[Any]
    row: int


@dataclass(slots=True)
class Completions:
    """What jobs send to the event loop, in order. A caller or counter that fails does not affect the others."""

    words: list[tuple[CaptionTask, list[Token]]] = field(default_factory=list)
    finished: list[tuple[CaptionTask, Captioned | ServerError]] = field(default_factory=list)
    first_words_ns: list[int] = field(default_factory=list)
    steps: list[StepCount] = field(default_factory=list)
    batches: list[BatchCount] = field(default_factory=list)
    # Callers of encoder batches, and the drift_features of their pictures.
    watched: list[tuple[str, Array]] = field(default_factory=list)

    def due(self) -> "Completions | None":
        """Remove and return the completions due: words and results at once, counts with a result or if many."""
        if self.finished or len(self.steps) >= _PENDING_STEPS:
            due = Completions(self.words, self.finished, self.first_words_ns, self.steps, self.batches)
            self.finished, self.first_words_ns, self.steps, self.batches = [], [], [], []
        elif self.words:
            due = Completions(self.words)
        else:
            return None
        self.words = []
        return due

    def failed(self, task: CaptionTask, error: ServerError) -> None:
        """End a request with an error."""
        self.finished.append((task, error))

    def end(self, task: CaptionTask) -> None:
        """End a request whose search is finished."""
        try:
            between_ns = task.end_ns - task.start_ns - task.input_ns - task.infer_ns
            times = task.queue_ns, task.input_ns, task.infer_ns
            timing = Timing(*times, 0, task.batch_rows, task.start_ns, between_ns)
            told = task.encoded_ns, task.end_ns, task.steps
            self.finished.append((task, Captioned(task.search.ranked(), timing, *told)))
        except Exception as error:  # the boundary of one caption
            self.failed(task, failure_of_one(error, task))

    def deliver(self, stats: ModelStats, watch_of: Callable[[str], Watch | None] = lambda _: None) -> None:
        """Call callers and counters; on the event loop. `watch_of` returns what watches the drift of a caller."""
        for task, words in self.words:
            _emit(task, words)
        for task, outcome in self.finished:
            _end(task, outcome)
        if hung := [task.identity for task, outcome in self.finished if isinstance(outcome, InferenceHung)]:
            _log.error("captions fail, as their run took far too long", extra={"request_ids": ids_of(hung)})
        count_all(stats.batch_done, self.batches)
        count_all(stats.first_word, self.first_words_ns)
        count_all(stats.step_done, self.steps)
        count_all(lambda tell: tell(), self._watched(watch_of))

    def _watched(self, watch_of: Callable[[str], Watch | None]) -> Iterator[Callable[[], object]]:
        """Yield what tells the watches of drift about encoded pictures and finished captions."""
        for caller, features in self.watched:
            if (watch := watch_of(caller)) is not None:
                yield partial(watch.add_pictures, features)
        for task, outcome in self.finished:
            if isinstance(outcome, Captioned) and (watch := watch_of(task.turn[1])) is not None:
                best, _ = outcome.ranked[0]
                yield partial(watch.add_caption, [token.id for token in best.tokens])


def failure_of_one(error: Exception, task: CaptionTask) -> InferenceFailed:
    """Return the error that a caller gets for a failure of its caption alone.

    It has no frames of `error`, which hold pictures. Nothing may keep `error` beyond its except clause: its frames
    lead back to their callers.
    """
    extra = {"request_ids": ids_of([task.identity])}
    if isinstance(error, InferenceFailed):
        failed = InferenceFailed(error.message)
        report_incident(_log, "a caption failed", failed, extra=extra)
        return failed
    incident = report_incident(_log, "a caption could not be decoded", error, extra=extra)
    return InferenceFailed.hidden(incident, "the caption could not be decoded")


def _emit(task: CaptionTask, words: list[Token]) -> None:
    if task.on_words is None or task.future.done():
        return
    try:
        task.on_words(words)
    except (Exception, asyncio.CancelledError) as error:  # the boundary of one caption
        extra = {"request_ids": ids_of([task.identity])}
        incident = report_incident(_log, "a caption's words could not be delivered", error, extra=extra)
        _end(task, ServerError.hidden(incident))


def _end(task: CaptionTask, outcome: Captioned | ServerError) -> None:
    if task.future.done():
        return
    if isinstance(outcome, ServerError):
        task.future.set_exception(outcome)
    else:
        task.future.set_result(outcome)
