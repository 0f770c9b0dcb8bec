"""One model's counters and histograms. Event loop only, so without locks."""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client.utils import floatToGoString

from resonnx_server.errors import FailureReason, ServerError

_log = logging.getLogger(__name__)

_SECONDS: Final = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
# Words of captions beyond are counted together.
_LAST_RESPONSE: Final = 255
_ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Histogram:
    """One series. `bounds` are inclusive upper bounds, ascending.

    prometheus_client's searches its bounds linearly and takes two locks a value: a tenth of a small request's time.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative count for each bound, which is written as Prometheus does; +Inf is the last."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class Timing(NamedTuple):
    """A request's time in the engine by phase, in ns, the rows of its batch, and when that began (monotonic ns)."""

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_rows: int
    start_ns: int = 0


@dataclass(slots=True, frozen=True)
class StepCount:
    """One decoder step: rows in use, tokens added to captions, and wasted rows.

    Wasted are padding rows, and rows of captions that have ended or were cancelled.
    """

    rows: int
    tokens: int
    wasted_rows: int


class BatchCount(NamedTuple):
    """One batch: `rows` without padding, `size` with padding, and its time by phase; see batch_done."""

    rows: int
    size: int
    input_ns: int
    infer_ns: int
    output_ns: int


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
class ModelStats:
    """Statistics of one model since it was loaded. Durations are per request, those in `batches` per batch."""

    request_seconds: Histogram = field(default_factory=partial(Histogram, _SECONDS))
    queue_seconds: Histogram = field(default_factory=partial(Histogram, _SECONDS))
    compute_seconds: Histogram = field(default_factory=partial(Histogram, _SECONDS))
    batch_rows: Histogram = field(default_factory=partial(Histogram, _ROWS))
    step_rows: Histogram = field(default_factory=partial(Histogram, _ROWS))
    first_word_seconds: Histogram = field(default_factory=partial(Histogram, _SECONDS))
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

    def batch_done(self, rows: int, size: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count one batch of `rows` rows, padded to `size`."""
        self.executions += 1
        self.inferences += rows
        self.padded_rows += size - rows
        self.batch_rows.observe(rows)
        batch = self.batches.setdefault(rows, BatchStats())
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

    def response(self, index: int) -> ResponseStats:
        """Return the statistics of answers with an index; those beyond the last index are counted together."""
        return self.responses.setdefault(min(index, _LAST_RESPONSE), ResponseStats())

    def session_event(self, kind: str) -> None:
        """Count an event of a session by its kind (scheduling/replacement.py)."""
        self.session_events[kind] += 1

    def first_word(self, ns: int) -> None:
        """Count one caption's time from arrival to its first word that can no longer change."""
        self.first_word_seconds.observe(ns / 1e9)

    def request_done(self, timing: Timing, total_ns: int) -> None:
        """Count one successful request."""
        queue_ns, input_ns, infer_ns, output_ns, *_ = timing
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.compute_input.add(input_ns)
        self.compute_infer.add(infer_ns)
        self.compute_output.add(output_ns)
        self.request_seconds.observe(total_ns / 1e9)
        self.queue_seconds.observe(queue_ns / 1e9)
        self.compute_seconds.observe((input_ns + infer_ns + output_ns) / 1e9)

    def request_failed(self, error: BaseException | None, total_ns: int) -> None:
        """Count one request that failed or was cancelled."""
        kind = error if isinstance(error, ServerError) else ServerError
        failure, reason = kind.failure, kind.reason
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            failure, reason = FailureReason.CANCELED, "CANCELLED"
        self.failures[failure] += 1
        self.errors[reason] += 1
        self.failed.add(total_ns)


def count_all(*counters: Callable[[], object]) -> None:
    """Call each of `counters`. One that raises is logged, and the others are called all the same."""
    for counter in counters:
        try:
            counter()
        except Exception:  # must not fail the request
            _log.exception("a metric could not be counted")
