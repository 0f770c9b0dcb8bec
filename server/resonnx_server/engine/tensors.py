"""Batches tensor requests of many callers through one session: classifiers and bare ONNX files.

`submit` runs on the event loop; `_TensorJob.run` on a lane. A batch that fails is run again row owner by row owner,
so one bad member never hurts its neighbours.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Final

import numpy as np

from resonnx_server.engine.admission import DeadlineAdmission, Objective
from resonnx_server.engine.batcher import DEFAULT_PRIORITY, Batch, Batcher, Entry
from resonnx_server.engine.device import Device
from resonnx_server.engine.place import Place
from resonnx_server.engine.runner import TensorRunner, TensorRunners, Tensors
from resonnx_server.engine.staging import Staging
from resonnx_server.errors import DeadlineExceeded, InferenceFailed, ServerError, Unavailable
from resonnx_server.observe.stats import ModelStats, Timing
from resonnx_server.runtime.session import Array

_log = logging.getLogger(__name__)

# Batches of each instance, at most, that a queue is worked off in.
_LONG_QUEUE: Final = 2


@dataclass(slots=True, eq=False)
class _Task:
    """A request of `rows`, and what batches have answered of it: rows from `start` on."""

    inputs: Tensors
    rows: int
    future: "asyncio.Future[tuple[Tensors, Timing]]"
    parts: list[tuple[int, Tensors, Timing]] = field(default_factory=list)
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.rows

    def answer(self, entry: "Entry[_Task]", outputs: Tensors, timing: Timing) -> None:
        """Take what one batch gave; on the event loop."""
        if self.future.done():
            return
        self.left -= entry.rows
        if self.left or self.parts:
            self.parts.append((entry.start, outputs, timing))
        if not self.left:
            self.future.set_result(_joined(self.parts) if self.parts else (outputs, timing))


# What each member of a batch gets.
_Outcomes = list[tuple[Entry[_Task], tuple[Tensors, Timing] | ServerError]]


class TensorEngine:
    """One model's tensor work.

    Args:
        runners: The sessions and their costs.
        device: Where it runs.
        stats: The model's counters.
        max_queue_rows: Rows that may wait.
        max_queue_delay_us: How long the oldest may wait for company.
        objective: What the model should keep, if anything.
        batched: False for a model without a batch axis: each request runs alone.
    """

    def __init__(
        self,
        runners: TensorRunners,
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
        batched: bool = True,
    ) -> None:
        self.runners = runners
        self.device = device
        self.stats = stats
        self.batched = batched
        self.staging: dict[str, Staging] = {}
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[_Task] = Batcher(
            runners.shared.table,
            max_queue_rows,
            max_queue_delay_us * 1000,
            objective.latency_ns if objective else None,
            runners.instances,
        )
        self._under_way = 0
        # When a batch on all cores should end, if there is one.
        self._whole_until_ns: int | None = None
        self._admission = DeadlineAdmission(device, objective, (runners.shared.table,))
        self._closed = False
        device.attach(self)

    def place(
        self,
        rows: int,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding_ns: float = 0.0,
    ) -> Place:
        """Keep room for a request whose pictures are yet to be decoded: `with engine.place(…) as place`.

        Args:
            rows: Its rows.
            deadline_ns: As for `submit`.
            priority: As for `submit`.
            decoding_ns: Expected time until they are decoded.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline would pass before the answer is there.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        with self.device.lock:
            return Place(
                self._batcher,
                self.device,
                self._admission,
                rows=rows,
                wait_ns=self._batcher.wait_ns(rows, priority),
                deadline_ns=deadline_ns,
                decoding_ns=decoding_ns,
            )

    async def submit(
        self,
        inputs: Tensors,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        place: Place | None = None,
    ) -> tuple[Tensors, Timing]:
        """Queue one request and return its outputs and where its time went.

        Args:
            inputs: Arrays [rows, ...] by input name, all with the same rows (any shapes if not batched). Several
                batches may serve them, whatever their number.
            deadline_ns: Monotonic; refused or dropped if it cannot be met.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            place: Where room was kept for it; None asks for it now.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline would pass before the answer is there.
            DeadlineExceeded: The deadline passed while waiting.
            InferenceFailed: The runtime failed on this request's own rows.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        if place is None and self._admission.has_limit(deadline_ns):
            with self.place(_rows(inputs) if self.batched else 1, deadline_ns, priority) as place:
                return await self.submit(inputs, deadline_ns, priority, place)
        entry = self._entry(inputs, deadline_ns, priority)
        with self.device.lock:
            if place is not None:
                place.arrive(entry.rows)
            self._batcher.push([entry])
            self.device.notify(self.ready_at_ns())
        try:
            return await entry.payload.future
        except BaseException:
            # The caller has gone, or some of the rows failed: the rest is wanted by nobody.
            with self.device.lock:
                self._batcher.discard(entry)
            raise
        finally:
            # The entry holds the error, which holds this frame: inputs would live until garbage is collected.
            del entry

    @property
    def largest(self) -> int:
        """Rows of the largest batch."""
        return self.runners.shared.table.largest

    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._batcher.rows

    def close(self) -> None:
        """Fail what still waits and take no more."""
        self._closed = True
        with self.device.lock:
            self.device.detach(self)
            left = self._batcher.clear()
        for entry in left:
            _fail(entry, Unavailable("the model is being closed"))

    # Called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        """See device.Workload."""
        if self._under_way >= self.runners.instances:
            return None
        if self._must_let_end():
            return None
        # A batch under way keeps the device busy: one beside it must pay.
        table = self._batcher.table
        return self._batcher.ready_at_ns(min(table.worthwhile, table.usual) if self._under_way else 1)

    def due_ns(self) -> int:
        """See device.Workload."""
        due = self._batcher.due_ns()
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        """See device.Workload."""
        return self._batcher.shortest_ns()

    def objective_ns(self) -> int | None:
        """See device.Workload."""
        return self._batcher.live_objective_ns(self.device.clock())

    def take(self, now_ns: int, budget_ns: float | None) -> "_TensorJob | None":
        """See device.Workload."""
        # What waits is shared out among the lanes that could start now, rather than one taking all.
        free = min(self.device.idle_lanes(), self.runners.instances - self._under_way)
        rows, table = self._batcher.rows, self._batcher.table
        share = max(-(-rows // free), table.worthwhile)
        if rows < table.largest:
            # The more wait for long anyway, the more counts that fewer batches leave the processor to everything else.
            share = min(share, max(table.usual, rows // (_LONG_QUEUE * self.runners.instances)))
        batch = self._batcher.take(now_ns, share, budget_ns)
        if batch.expired:
            late: _Outcomes = [
                (entry, DeadlineExceeded("the deadline passed while the request waited")) for entry in batch.expired
            ]
            self.post(lambda: _deliver(late))
        if not batch.entries:
            return None
        self._under_way += 1
        # A picture that is being decoded needs a core, and will be here soon.
        coming = self._batcher.rows + self._batcher.expected_rows
        is_alone = self.device.idle_lanes() == self.device.lanes and not coming
        job = _TensorJob(self, batch, self.runners.pick(batch.size, is_alone=is_alone))
        if job.runner.has_all_cores:
            self._whole_until_ns = now_ns + int(job.cost_ns)
        return job

    def finished(self, runner: TensorRunner) -> None:
        """A job on `runner` ended; from its lane, which looks for the next one itself."""
        with self.device.lock:
            self._under_way -= 1
            if runner.has_all_cores:
                self._whole_until_ns = None

    def record(self, runner: TensorRunner, size: int, ns: int) -> None:
        """Keep a table up to date; from a lane."""
        with self.device.lock:
            self.runners.record(runner, size, ns)

    def post(self, deliver: Callable[[], object]) -> None:
        """Run `deliver` on the event loop; from a lane."""
        self._loop.call_soon_threadsafe(deliver)

    def _must_let_end(self) -> bool:
        """Whether a batch under way has all cores, and ends sooner than one beside it, slowing both down, would pay."""
        if self._whole_until_ns is None:
            return False
        return self._whole_until_ns - self.device.clock() <= self._batcher.shortest_ns()

    def _entry(self, inputs: Tensors, deadline_ns: int | None, priority: int) -> Entry[_Task]:
        rows = _rows(inputs) if self.batched else 1
        shape = tuple(array.shape[1:] for array in inputs.values()) if self.batched else None
        task = _Task(inputs, rows, self._loop.create_future())
        return Entry(task, rows, self.device.clock(), deadline_ns, shape, priority)


class _TensorJob:
    """One batch on its way through the session."""

    def __init__(self, engine: TensorEngine, batch: Batch[_Task], runner: TensorRunner) -> None:
        self._engine = engine
        self._batch = batch
        self.runner = runner
        self._counts: list[Callable[[], None]] = []
        self.cost_ns = runner.table.cost_ns(batch.size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Run the batch and post every member's outcome to the loop, in one wake-up."""
        batch = self._batch
        try:
            outcomes = self._run_together(batch.entries, batch.size)
        except Exception as error:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("a batch failed", extra={"rows": batch.rows})
            outcomes = [(batch.entries[0], _told(error))] if len(batch.entries) == 1 else self._run_singly()
        self._engine.finished(self.runner)
        self._engine.post(lambda: self._deliver(outcomes))

    def _deliver(self, outcomes: _Outcomes) -> None:
        _deliver(outcomes)
        for count in self._counts:
            count()

    def _run_singly(self) -> _Outcomes:
        outcomes: _Outcomes = []
        for entry in self._batch.entries:
            try:
                outcomes += self._run_together([entry], self.runner.table.bucket(entry.rows))
            except Exception as error:  # as above
                outcomes.append((entry, _told(error)))
        return outcomes

    def _run_together(self, entries: list[Entry[_Task]], size: int) -> _Outcomes:
        engine = self._engine
        clock = engine.device.clock
        start = clock()
        feeds, lent = self._assemble(entries, size)
        assembled = clock()
        try:
            outputs = self.runner.run(feeds)
        finally:
            for name, buffer in lent:
                engine.staging[name].release(buffer)
        ran = clock()
        rows = sum(entry.rows for entry in entries)
        parts = _slices(outputs, entries) if engine.batched else [outputs]
        done = clock()
        engine.record(self.runner, size, ran - assembled)
        input_ns, infer_ns, output_ns = assembled - start, ran - assembled, done - ran
        self._counts.append(partial(engine.stats.batch_done, rows, size, input_ns, infer_ns, output_ns))
        return [
            (entry, (part, Timing(start - entry.arrival_ns, input_ns, infer_ns, output_ns, rows)))
            for entry, part in zip(entries, parts, strict=True)
        ]

    def _assemble(self, entries: list[Entry[_Task]], size: int) -> tuple[Tensors, list[tuple[str, Array | None]]]:
        engine = self._engine
        if not engine.batched:
            return entries[0].payload.inputs, []
        feeds: Tensors = {}
        lent = []
        for name in entries[0].payload.inputs:
            staging = engine.staging.setdefault(name, Staging(engine.largest, engine.device.allocate))
            feeds[name], buffer = staging.join([_part(entry, name) for entry in entries], size)
            lent.append((name, buffer))
        return feeds, lent


def _part(entry: Entry[_Task], name: str) -> Array:
    array = entry.payload.inputs[name]
    return array if entry.rows == entry.payload.rows else array[entry.start : entry.start + entry.rows]


def _joined(parts: list[tuple[int, Tensors, Timing]]) -> tuple[Tensors, Timing]:
    outputs = [outputs for _, outputs, _ in sorted(parts, key=itemgetter(0))]
    joined = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    return joined, max((timing for _, _, timing in parts), key=lambda timing: timing.queue_ns)


def _slices(outputs: Tensors, entries: list[Entry[_Task]]) -> list[Tensors]:
    parts = []
    start = 0
    for entry in entries:
        end = start + entry.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def _told(error: Exception) -> ServerError:
    """Return what callers are told of an error, without its frames: they hold everybody's inputs."""
    if isinstance(error, ServerError):
        return error.with_traceback(None)
    return InferenceFailed("the model failed on this input")


def _deliver(outcomes: _Outcomes) -> None:
    for entry, outcome in outcomes:
        if isinstance(outcome, ServerError):
            _fail(entry, outcome)
            continue
        try:
            entry.payload.answer(entry, *outcome)
        except Exception:  # the boundary of one request: the others' answers are behind it
            _log.exception("batches' outputs cannot be joined", extra={"rows": entry.payload.rows})
            _fail(entry, InferenceFailed("the model's outputs for some of the rows do not fit the others'"))


def _fail(entry: Entry[_Task], error: ServerError) -> None:
    if not entry.payload.future.done():
        entry.payload.future.set_exception(error)


def _rows(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))
