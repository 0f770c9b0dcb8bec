"""One batch of tensor requests on a device's lane, and the outcome of each request.

A batch that fails is halved until only the requests fail that do so alone, and rows with values that are not finite
fail only their own request. So a bad request never fails others. A run that does not end fails the whole batch.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from resonnx_server.drift.drift import Watch
from resonnx_server.errors import InferenceFailed, InferenceHung, ServerError
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.requests.identity import Identity, ids_of, spans_of
from resonnx_server.observe.spans.tracer import batch_attributes, tracer
from resonnx_server.observe.stats import BatchCount, ModelStats, Timing, count_all
from resonnx_server.runtime.graphs import DRIFT_FEATURES, PROBABILITIES
from resonnx_server.runtime.memory_errors import is_lack_of_memory
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.batcher import Batch
from resonnx_server.scheduling.queue import Entry
from resonnx_server.scheduling.session_pool import BufferPool, Tensors, TensorSessionPool
from resonnx_server.scheduling.sharing import COMPARISON
from resonnx_server.scheduling.watchdog import RunLimit
from resonnx_server.tensors.outputs import Part, asked_for, finite_rows, slices

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class TensorTask:
    """A request and the outputs of its rows so far.

    Attributes:
        rows: Rows that the queue counts.
        whole_rows: Rows of a request that runs unpadded in a batch of its own; else None.
        more_outputs: See QueueReservation.
        parts: Outputs of its rows so far, by batch. They do not hold the entry, whose payload is the task: such a cycle
            would keep inputs and outputs until garbage is collected.
        answered: Rows of `parts`.
        identity: What the request is called; None for runs that no caller asked for.
    """

    inputs: Tensors
    rows: int
    future: "asyncio.Future[list[Part]]"
    whole_rows: int | None = None
    more_outputs: tuple[str, ...] = ()
    parts: list[Part] = field(default_factory=list)
    answered: int = 0
    identity: Identity | None = None

    def answer(self, entry: "Entry[TensorTask]", outputs: Tensors, timing: Timing) -> None:
        """Take the outputs of the rows of `entry`; on the event loop."""
        if self.future.done():
            return
        self.parts.append((entry.start, outputs, timing))
        self.answered += entry.rows
        if self.answered == self.rows:
            self.future.set_result(self.parts)


# Of each entry of a batch.
Outcomes = list[tuple[Entry[TensorTask], tuple[Tensors, Timing] | ServerError]]


@dataclass(frozen=True, slots=True)
class JobContext:
    """What all jobs of an engine share.

    Attributes:
        clock: Monotonic ns.
        buffers: By input name.
        batched: The model has a batch axis.
        finite: Outputs that are not finite fail their request.
        limit: The longest run.
        finished: Called with each job that has run, with the device's lock held.
        gave_up: Called in its place with a job whose run does not end, with the device's lock held.
        is_watched: The graph has the output drift_features, which is for the watch of drift alone.
    """

    clock: Callable[[], int]
    buffers: Mapping[str, BufferPool]
    batched: bool
    finite: bool
    limit: RunLimit
    finished: "Callable[[TensorJob], None]"
    gave_up: "Callable[[TensorJob], None]"
    is_watched: bool = False


class TensorJob:
    """One batch on a session.

    Attributes:
        pool: The session.
        entries: The requests.
        times: Size and ns of each run that latencies are learnt from; complete when it has run.
        moved_ns: See Watched.
        was_interrupted: The watchdog ended its run.
        lacks_memory: A run of the smallest size failed for lack of memory.
        lane_ns: Processor time of the lane, if the job compares versions and answers nobody; else None.
    """

    def __init__(self, batch: Batch[TensorTask], pool: TensorSessionPool, context: JobContext) -> None:
        self.pool = pool
        self.cost_ns = pool.table.time_ns(batch.entries[0].payload.whole_rows or batch.size)
        self.has_all_cores = pool.has_all_cores
        self.times: list[tuple[int, int]] = []
        self.moved_ns = 0
        self.was_interrupted = self.lacks_memory = False
        self.entries = batch.entries
        self.lane_ns = 0 if batch.entries[0].caller == COMPARISON else None
        self._batch, self._context = batch, context
        self._outcomes: Outcomes = []
        self._counts: list[BatchCount] = []
        self._watched: list[Array] = []
        self._predicted: list[Array] = []

    def run(self) -> None:
        """Run the batch."""
        if self.lane_ns is None:
            self._run()
            return
        began = time.thread_time_ns()
        self._run()
        self.lane_ns = time.thread_time_ns() - began

    def _run(self) -> None:
        batch = self._batch
        try:
            self._outcomes = self._run_together(batch.entries, batch.size)
        except Exception as error:  # the boundary of a batch: every request gets an outcome
            if not isinstance(error, InferenceHung):
                extra = {"rows": batch.rows, "request_ids": ids_of(entry.payload.identity for entry in batch.entries)}
                report_incident(_log, "a batch failed", error, extra=extra)
            self._outcomes = self._after(error, batch.entries)

    def limit_ns(self) -> int:
        """Return the longest time of one run."""
        first, context = self._batch.entries[0], self._context
        is_known = context.batched and first.payload.whole_rows is None
        return context.limit.of(self.pool.table, self._batch.size, is_known=is_known)

    def give_up(self) -> None:
        """Report that it does not end."""
        self._context.gave_up(self)

    def finish(self) -> None:
        """Report it as finished."""
        self._context.finished(self)

    def deliver(self, stats: ModelStats, watch: Watch | None = None) -> None:
        """Give every request its outcome, and count in the event loop's next turn, behind the tasks that answer."""
        deliver(self._outcomes)
        asyncio.get_running_loop().call_soon(self._count, stats, watch)

    def _count(self, stats: ModelStats, watch: Watch | None) -> None:
        count_all(stats.batch_done, self._counts)
        if stats.predictions is not None:
            count_all(stats.predictions.add, self._predicted)
        if watch is not None:
            count_all(watch.add_pictures, self._watched)

    def _share_of_table(self, entries: list[Entry[TensorTask]]) -> float:
        """Return the time of entries as a multiple of the one that the latency table has for a batch of their size."""
        return 1.0

    def _after(self, error: Exception, entries: list[Entry[TensorTask]]) -> Outcomes:
        """Return the outcomes of entries whose common run failed: run halves of them."""
        if isinstance(error, InferenceHung):
            self.was_interrupted = True
            return [(entry, InferenceHung()) for entry in entries]
        halves = self._halves(entries, is_for_memory=is_lack_of_memory(error))
        if not halves:
            self.lacks_memory |= is_lack_of_memory(error)
            return [(entries[0], _failure(error, entries[0].payload))]
        outcomes: Outcomes = []
        for half in halves:
            self.moved_ns = self._context.clock()
            try:
                outcomes += self._run_together(half, self.pool.table.padded_batch_size(sum(e.rows for e in half)))
            except Exception as failed:  # as above
                outcomes += self._after(failed, half)
        return outcomes

    def _halves(self, entries: list[Entry[TensorTask]], *, is_for_memory: bool) -> list[list[Entry[TensorTask]]]:
        """Return two halves of a batch, or nothing if it cannot be divided: one request fails as a whole.

        A request whose rows lacked memory together is divided, too.
        """
        if len(entries) > 1:
            middle = len(entries) // 2
            return [entries[:middle], entries[middle:]]
        (entry,) = entries
        if entry.rows == 1 or not is_for_memory:
            return []
        rows = entry.rows // 2
        return [[replace(entry, rows=rows)], [replace(entry, rows=entry.rows - rows, start=entry.start + rows)]]

    def _run_together(self, entries: list[Entry[TensorTask]], size: int) -> Outcomes:
        context, whole_rows = self._context, entries[0].payload.whole_rows
        more = {name for entry in entries for name in entry.payload.more_outputs}
        asked = [*sorted(more), DRIFT_FEATURES] if context.is_watched else sorted(more)
        start = context.clock()
        feeds, lent = self._assemble(entries, size)
        assembled = context.clock()
        try:
            outputs = self.pool.run(feeds, more=asked) if asked else self.pool.run(feeds)
        finally:
            for pool, buffer in lent:
                pool.release(buffer)
        ran = context.clock()
        watched = outputs.pop(DRIFT_FEATURES) if context.is_watched else None
        counts = [entry.rows for entry in entries]
        held = sum(counts)
        rows = whole_rows or held
        parts = slices(outputs, counts, size) if context.batched and whole_rows is None else [outputs]
        if more:
            wanted = [entry.payload.more_outputs for entry in entries]
            parts = [asked_for(part, more, names) for part, names in zip(parts, wanted, strict=True)]
        finite = finite_rows(outputs, held) if context.finite else None
        if finite is not None:
            extra = {"rows": held, "request_ids": ids_of(entry.payload.identity for entry in entries)}
            report_incident(_log, "outputs are not finite", FloatingPointError(), extra=extra)
        if watched is not None:
            is_good = finite if finite is None or whole_rows is None else np.repeat(finite, whole_rows)
            self._watched.append(watched[:rows] if is_good is None else watched[:rows][is_good])
        done = context.clock()
        times = input_ns, infer_ns, output_ns = assembled - start, ran - assembled, done - ran
        if whole_rows is None:
            self.times.append((size, int(infer_ns / self._share_of_table(entries))))
        expected_ns = self.pool.table.cost_ns(size) * self._share_of_table(entries) if whole_rows is None else 0.0
        count = BatchCount(rows, whole_rows or size, *times, self._batch.dispatch, expected_ns)
        self._counts.append(count)
        if tracer.is_on:
            members = spans_of(entry.payload.identity for entry in entries)
            tracer.batch("batch", members, start, done, batch_attributes(count))
        if (probabilities := outputs.get(PROBABILITIES)) is not None and context.finite:
            self._predicted.append(probabilities[:held] if finite is None else probabilities[:held][finite])
        outcomes: Outcomes = []
        for entry, part, end in zip(entries, parts, accumulate(counts), strict=True):
            if finite is None or finite[end - entry.rows : end].all():
                timing = Timing(start - entry.arrival_ns, input_ns, infer_ns, output_ns, rows, start)
                outcomes.append((entry, (part, timing)))
            else:
                outcomes.append((entry, InferenceFailed("the model's output has NaN or infinity")))
        return outcomes

    def _assemble(
        self, entries: list[Entry[TensorTask]], size: int
    ) -> tuple[Tensors, list[tuple[BufferPool, Array | None]]]:
        """Join the inputs of a batch; return them and the buffers to release."""
        first = entries[0].payload
        if not self._context.batched or first.whole_rows is not None:
            return first.inputs, []
        feeds: Tensors = {}
        lent = []
        for name in first.inputs:
            pool = self._context.buffers[name]
            feeds[name], buffer = pool.join([_part(entry, name) for entry in entries], size)
            lent.append((pool, buffer))
        return feeds, lent


def _part(entry: Entry[TensorTask], name: str) -> Array:
    array = entry.payload.inputs[name]
    return array if entry.rows == entry.payload.rows else array[entry.start : entry.start + entry.rows]


def _failure(error: Exception, task: TensorTask) -> ServerError:
    """Return the error for the caller, without frames and causes: they hold the inputs of all requests."""
    if isinstance(error, ServerError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    if is_lack_of_memory(error):
        return InferenceFailed("the device has not enough memory for this input")
    incident = report_incident(_log, "an input failed", error, extra={"request_ids": ids_of([task.identity])})
    return InferenceFailed.hidden(incident, "the model failed on this input")


def deliver(outcomes: Outcomes) -> None:
    """Give every request its outcome; on the event loop."""
    hung = []
    for entry, outcome in outcomes:
        task = entry.payload
        if not isinstance(outcome, ServerError):
            task.answer(entry, *outcome)
            continue
        if isinstance(outcome, InferenceHung):
            hung.append(task.identity)
        if not task.future.done():
            task.future.set_exception(outcome)
    if hung:
        _log.error("requests fail, as their run took far too long", extra={"request_ids": ids_of(hung)})
