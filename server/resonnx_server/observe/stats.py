"""One model's counters and histograms. Event loop only, so without locks."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple, TypeVar

from resonnx_server.errors import FailureReason, ServerError
from resonnx_server.observe.series.histogram import LATENCIES, ROWS, STAGES, Histogram
from resonnx_server.observe.series.predictions import Predictions

C = TypeVar("C")

_log = logging.getLogger(__name__)

# Words of captions beyond are counted together.
_LAST_RESPONSE: Final = 255


class Timing(NamedTuple):
    """A request's time in the engine by phase, in ns, the rows of its batch, and when that began (monotonic ns).

    `between_ns` is that between the steps of a caption (other captions join and leave, or pictures are encoded) or
    between the runs of a clip.
    """

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_rows: int
    start_ns: int = 0
    between_ns: int = 0

    @property
    def end_ns(self) -> int:
        """When its batch, or the last step of its caption, was over (monotonic)."""
        return self.start_ns + sum(self[1:4]) + self.between_ns


@dataclass(slots=True, frozen=True)
class StepCount:
    """One decoder step: rows in use, tokens added to captions, wasted rows, and its predicted and actual time.

    Wasted are padding rows, and rows of captions that have ended or were cancelled.
    """

    rows: int
    tokens: int
    wasted_rows: int
    expected_ns: float = 0.0
    infer_ns: int = 0


class Dispatch(StrEnum):
    """Why a batch began when it did, with the rows that it had."""

    FULL = "full"
    """It had the most rows that a batch may have."""
    IDLE = "idle"
    """A lane was free, and took what waited."""
    DEADLINE = "deadline"
    """More rows would have made an answer late: by its deadline, or by an objective."""
    DELAY = "delay"
    """Its oldest row had waited for `max_queue_delay_us`."""

    # Each batch counts one; Enum's own hash takes longer.
    __hash__ = str.__hash__


class BatchCount(NamedTuple):
    """One batch: `rows` without padding, `size` with padding, its time by phase, why it began, and predicted time."""

    rows: int
    size: int
    input_ns: int
    infer_ns: int
    output_ns: int
    dispatch: Dispatch = Dispatch.IDLE
    expected_ns: float = 0.0


@dataclass(slots=True)
class Duration:
    """A number of occurrences and their total time."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one occurrence."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class BatchStats:
    """Batches of one size, without padding."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ResponseStats:
    """Answers with one index among the answers to a request, each with the time since the one before it."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Accuracy:
    """Predicted and actual times of runs, and the sum of their absolute differences, in ns."""

    predicted_ns: float = 0.0
    actual_ns: int = 0
    error_ns: float = 0.0

    def add(self, predicted_ns: float, actual_ns: int) -> None:
        """Count one run; nothing was predicted if `predicted_ns` is 0."""
        if predicted_ns:
            self.predicted_ns += predicted_ns
            self.actual_ns += actual_ns
            self.error_ns += abs(actual_ns - predicted_ns)


@dataclass(slots=True)
class ModelStats:
    """Statistics of one model since it was loaded. Durations are per request, those in `batches` per batch.

    Attributes:
        predictions: What a classifier predicts; None if that is not counted.
        objective_ns: The model's latency objective; 0 if it has none.
        admission_ns: Sum over successful requests of the time before decoding and queue.
        between_ns: Likewise, between the steps of captions, or the runs of a clip.
        answer_ns: Likewise, from the end of the batch to the answer.
        dispatched: Batches by the reason for their beginning.
        has_several_runs: Its requests have time between runs, as those with decode slots have.
    """

    predictions: Predictions | None = None
    request_seconds: Histogram = field(default_factory=partial(Histogram, LATENCIES))
    decode_seconds: Histogram = field(default_factory=partial(Histogram, STAGES))
    queue_seconds: Histogram = field(default_factory=partial(Histogram, STAGES))
    compute_seconds: Histogram = field(default_factory=partial(Histogram, STAGES))
    batch_rows: Histogram = field(default_factory=partial(Histogram, ROWS))
    step_rows: Histogram = field(default_factory=partial(Histogram, ROWS))
    first_word_seconds: Histogram = field(default_factory=partial(Histogram, STAGES))
    admission_ns: int = 0
    between_ns: int = 0
    answer_ns: int = 0
    objective_ns: int = 0
    met: int = 0
    missed: int = 0
    dispatched: dict[Dispatch, int] = field(default_factory=lambda: dict.fromkeys(Dispatch, 0))
    accuracy: Accuracy = field(default_factory=Accuracy)
    success: Duration = field(default_factory=Duration)
    failed: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    failures: dict[FailureReason, int] = field(default_factory=lambda: dict.fromkeys(FailureReason, 0))
    errors: Counter[str] = field(default_factory=Counter)
    session_events: Counter[str] = field(default_factory=Counter)
    in_progress: int = 0
    inferences: int = 0
    executions: int = 0
    padded_rows: int = 0
    slots: int = 0
    has_several_runs: bool = False
    slots_used: int = 0
    steps: int = 0
    tokens: int = 0
    wasted_rows: int = 0
    last_inference_ms: int = 0
    batches: dict[int, BatchStats] = field(default_factory=dict)
    responses: dict[int, ResponseStats] = field(default_factory=dict)

    @property
    def has_counted(self) -> bool:
        """Whether a request or a batch has been counted."""
        return bool(self.success.count or self.failed.count or self.executions)

    def batch_done(self, count: BatchCount) -> None:
        """Count one batch."""
        rows, size, input_ns, infer_ns, output_ns, dispatch, expected_ns = count
        self.executions += 1
        self.dispatched[dispatch] += 1
        self.accuracy.add(expected_ns, infer_ns)
        self.inferences += rows
        self.padded_rows += size - rows
        self.batch_rows.observe(rows)
        if (batch := self.batches.get(rows)) is None:
            batch = self.batches[rows] = BatchStats()
        batch.compute_input.add(input_ns)
        batch.compute_infer.add(infer_ns)
        batch.compute_output.add(output_ns)
        self.last_inference_ms = time.time_ns() // 1_000_000

    def step_done(self, step: StepCount) -> None:
        """Count one decoder step."""
        self.step_rows.observe(step.rows)
        self.slots_used = step.rows
        self.steps += 1
        self.tokens += step.tokens
        self.wasted_rows += step.wasted_rows
        self.accuracy.add(step.expected_ns, step.infer_ns)

    def response(self, index: int) -> ResponseStats:
        """Return the statistics of answers with an index; those beyond the last index are counted together."""
        return self.responses.setdefault(min(index, _LAST_RESPONSE), ResponseStats())

    def session_event(self, kind: str) -> None:
        """Count an event of a session by its kind (scheduling/replacement.py)."""
        self.session_events[kind] += 1

    def first_word(self, ns: int) -> None:
        """Count one caption's time from arrival to its first word that can no longer change."""
        self.first_word_seconds.observe(ns / 1e9)

    def request_done(
        self, timing: Timing, start_ns: int, end_ns: int, decode_ns: int = 0, trace_id: str | None = None
    ) -> None:
        """Count one successful request.

        Its stages follow each other, so that their sum is its duration: admission, decoding, queue, batch (with the
        time between steps), answer.

        Args:
            timing: Its time in the engine.
            start_ns: When it was parsed (monotonic).
            end_ns: When its answer was ready.
            decode_ns: Time to decode its pictures, with the wait for a thread; 0 if nothing was decoded.
            trace_id: Of the trace that it belongs to, if its caller records that.
        """
        queue_ns, input_ns, infer_ns, output_ns, *_ = timing
        total_ns, compute_ns = end_ns - start_ns, input_ns + infer_ns + output_ns
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.compute_input.add(input_ns)
        self.compute_infer.add(infer_ns)
        self.compute_output.add(output_ns)
        self.admission_ns += timing.start_ns - queue_ns - decode_ns - start_ns
        self.between_ns += timing.between_ns
        self.answer_ns += end_ns - timing.start_ns - compute_ns - timing.between_ns
        self.request_seconds.observe(total_ns / 1e9, trace_id)
        self.queue_seconds.observe(queue_ns / 1e9, trace_id)
        self.compute_seconds.observe(compute_ns / 1e9, trace_id)
        if decode_ns:
            self.decode_seconds.observe(decode_ns / 1e9, trace_id)
        if self.objective_ns:
            if total_ns <= self.objective_ns:
                self.met += 1
            else:
                self.missed += 1

    def request_failed(self, error: BaseException | None, total_ns: int) -> None:
        """Count one request that failed or was cancelled."""
        kind = error if isinstance(error, ServerError) else ServerError
        failure, reason = kind.failure, kind.reason
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            failure, reason = FailureReason.CANCELED, "CANCELLED"
        self.failures[failure] += 1
        self.errors[reason] += 1
        self.failed.add(total_ns)


def count_all(count: Callable[[C], object], items: Iterable[C]) -> None:
    """Call `count` with each of `items`. Where it raises, that is logged, and the others are counted all the same."""
    for item in items:
        try:
            count(item)
        except Exception:  # must not fail the request
            _log.exception("a metric could not be counted")
