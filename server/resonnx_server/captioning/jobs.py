"""The two kinds of work of a captioner, on a device's lane: an encoder batch, and a decoder step of all captions.

A step owns the slots. Jobs never raise: whatever fails, everybody concerned gets an outcome. A run comes first and
changes nobody; where it fails, each member runs alone. What it gave is then taken member by member, and what fails for
one of them fails that one.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resonnx_server.captioning.completions import Completions, failure_of_one
from resonnx_server.captioning.request import CaptionTask, Encoded
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.stats import BatchCount, StepCount
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.batcher import Batch, Entry
from resonnx_server.scheduling.session_pool import AnySessionPool

if TYPE_CHECKING:
    from resonnx_server.captioning.engine import CaptionEngine

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """What one run of the encoder gave for `entries`, and where its time went."""

    entries: Sequence[Entry[CaptionTask]]
    state: Sequence[Any]
    features: Sequence[Any]
    first: StepOutput | None
    start_ns: int
    ran_ns: int
    count: BatchCount


class EncodeJob:
    """One encoder batch."""

    def __init__(self, engine: "CaptionEngine", batch: Batch[CaptionTask], runner: AnySessionPool) -> None:
        self._engine = engine
        self._entries = batch.entries
        self.tasks = [entry.payload for entry in batch.entries]
        self.size = batch.size
        self.runner = runner
        self.cost_ns = runner.table.cost_ns(batch.size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Encode; the pictures' captions join at the next step."""
        engine, events = self._engine, Completions()
        encodings = self._encodings(events)
        joining = [encoded for encoding in encodings for encoded in self._begin(encoding, events)]
        whole_ns = [each.count.infer_ns for each in encodings if len(each.entries) == len(self._entries)]
        # First: what the next job tells of these captions must come after.
        engine.job_done()
        engine.outbox.post(events)
        engine.encoded(self, joining, whole_ns[0] if whole_ns else None)

    def _encodings(self, events: Completions) -> list[_Encoding]:
        """Encode all pictures together or, where that fails, each by itself."""
        try:
            return [self._encode(self._entries, self.size)]
        except Exception:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("an encoder batch failed", extra={"rows": len(self._entries)})
        encodings = []
        for entry in self._entries:
            try:
                # Who was alone has been tried.
                if len(self._entries) > 1:
                    encodings.append(self._encode([entry], self.runner.table.padded_batch_size(1)))
                    continue
            except Exception:  # as above
                _log.exception("a picture could not be encoded by itself")
            events.failed(entry.payload, InferenceFailed("the model failed on this picture"))
        return encodings

    def _encode(self, entries: Sequence[Entry[CaptionTask]], size: int) -> _Encoding:
        engine, clock = self._engine, self._engine.device.clock
        start = clock()
        images, buffer = engine.staging.join([entry.payload.image[np.newaxis] for entry in entries], size)
        assembled = clock()
        try:
            state, features, first_log_probs = self.runner.run(images)
        finally:
            engine.staging.release(buffer)
        ran = clock()
        first = None if first_log_probs is None else StepOutput.of_log_probs(first_log_probs[: len(entries)])
        count = BatchCount(len(entries), size, assembled - start, ran - assembled, clock() - ran)
        return _Encoding(entries, state, features, first, start, ran, count)

    def _begin(self, encoding: _Encoding, events: Completions) -> list[Encoded]:
        """Let captions begin with what was encoded; return those that have words to come."""
        joining = []
        for row, entry in enumerate(encoding.entries):
            task, count = entry.payload, encoding.count
            task.queue_ns = encoding.start_ns - task.arrival_ns
            task.input_ns, task.infer_ns = count.input_ns, count.infer_ns
            task.batch_rows = count.rows
            try:
                if encoding.first is not None:
                    task.take_word(encoding.first, [row], whole=True)
                    events.advanced(task, encoding.ran_ns)
                if task.search.finished:
                    events.finished.append((task, task.result()))
                else:
                    joining.append(Encoded(task, encoding.state, encoding.features, row))
            except Exception as error:  # the boundary of one caption: the others' are behind it
                events.failed(task, failure_of_one(error))
        events.batches.append(encoding.count)
        return joining


class StepJob:
    """One decoder step of all captions under way.

    Attributes:
        size: Rows that it was expected to have; those that it had, once it ran.
        rows: Of these, those in use, once it ran.
        begin_ns: When it began to run.
    """

    def __init__(self, engine: "CaptionEngine", joining: list[Encoded], runner: AnySessionPool, size: int) -> None:
        self._engine = engine
        self._joining = joining
        self.size = size
        self.rows = self.begin_ns = 0
        self.runner = runner
        self.cost_ns = runner.table.cost_ns(size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Let the encoded join and the unwanted leave, step, and tell who has a word or has ended."""
        engine, slots = self._engine, self._engine.slots
        events = engine.outbox.untold
        step_ns = None
        self.begin_ns = engine.device.clock()
        try:
            self._join_and_leave(events)
            if active := self._active(events):
                self.rows = len(slots)
                self.size = self.runner.table.padded_batch_size(self.rows)
                step_ns = self._step(active, events)
            self._release(events)
        except Exception:  # the boundary of a step: whatever fails, every caption gets an outcome
            _log.exception("a decoder step failed", extra={"rows": len(slots)})
            for task in {**slots.owners, **{encoded.task: None for encoded in self._joining}}:
                events.failed(task, InferenceFailed("the decoder failed"))
            for task in list(slots.owners):
                slots.leave(task)
        # First: once the step has ended, another lane may begin the next.
        engine.job_done()
        engine.outbox.tell()
        engine.stepped(self, step_ns)

    def _join_and_leave(self, events: Completions) -> None:
        slots, now = self._engine.slots, self._engine.device.clock()
        for task in [task for task in slots.owners if not task.is_wanted(now)]:
            slots.leave(task)
            events.too_late(task)
        for encoded in self._joining:
            task = encoded.task
            if not task.is_wanted(now):
                events.too_late(task)
                continue
            try:
                slots.join(task, task.search.tokens, encoded.state, encoded.features, encoded.row)
            except Exception as error:  # the boundary of one caption
                self._leave(task, failure_of_one(error), events)

    def _active(self, events: Completions) -> dict[CaptionTask, bool]:
        """Return the captions that go on, and whether each chooses from all tokens."""
        active = {}
        for task in [task for task in self._engine.slots.owners if not task.search.finished]:
            try:
                active[task] = task.search.needs_log_probs
            except Exception as error:  # the boundary of one caption
                self._leave(task, failure_of_one(error), events)
        return active

    def _step(self, active: dict[CaptionTask, bool], events: Completions) -> int | None:
        """Run the step of all rows or, where that fails, of each caption's; return how long the first took."""
        slots, ns = self._engine.slots, None
        try:
            run = self._run(slots.inputs(self.size), active)
        except Exception:  # the boundary of a step
            _log.exception("a decoder step failed", extra={"rows": len(slots)})
            outcomes = self._step_singly(active, events)
        else:
            ns = run.infer_ns
            slots.store(run.step.state)
            events.steps.append(_count(active, len(slots), self.size))
            outcomes = [(task, _read(task, run, task.rows, whole, events)) for task, whole in active.items()]
        # All have read before any row moves.
        for task, outcome in outcomes:
            failure = outcome if isinstance(outcome, InferenceFailed) else self._move(task, outcome)
            if failure is not None:
                self._leave(task, failure, events)
        if ns is None:
            slots.clear_free()
        return ns

    def _step_singly(
        self, active: dict[CaptionTask, bool], events: Completions
    ) -> "list[tuple[CaptionTask, _Outcome]]":
        slots = self._engine.slots
        outcomes: list[tuple[CaptionTask, _Outcome]] = []
        for task, whole in active.items():
            rows = len(task.rows)
            try:
                # Who was alone has been tried.
                if len(slots.owners) > 1:
                    size = self.runner.table.padded_batch_size(rows)
                    run = self._run(slots.inputs_of(task, size), {task: whole})
                    slots.store_of(task, run.step.state)
                    events.steps.append(_count([task], rows, size))
                    outcomes.append((task, _read(task, run, range(rows), whole, events)))
                    continue
            except Exception:  # as above
                _log.exception("a caption's step failed by itself")
            outcomes.append((task, InferenceFailed("the decoder failed")))
        return outcomes

    def _run(self, inputs: tuple[Array, list[Any], list[Any]], active: dict[CaptionTask, bool]) -> "_Run":
        clock = self._engine.device.clock
        start = clock()
        step = self.runner.run(
            *inputs,
            attention=any(task.wants_attention for task in active),
            log_probs=any(active.values()),
        )
        ran = clock()
        return _Run(step, StepOutput.of_step(step), ran - start, ran)

    def _move(self, task: CaptionTask, sources: Sequence[int]) -> InferenceFailed | None:
        """Give a caption's rows their next tokens; what is returned goes wrong with it alone."""
        try:
            if not task.search.finished:
                self._engine.slots.advance(task, sources, task.search.tokens)
        except Exception as error:  # the boundary of one caption
            return failure_of_one(error)
        return None

    def _release(self, events: Completions) -> None:
        """Answer captions that have ended and free their rows: each at once, or all together."""
        engine, slots = self._engine, self._engine.slots
        ended = [task for task in slots.owners if task.search.finished]
        if engine.pacing.holds_finished and len(ended) < len(slots.owners):
            return
        for task in ended:
            engine.ended(task)
            slots.leave(task)
            try:
                events.finished.append((task, task.result()))
            except Exception as error:  # the boundary of one caption
                events.failed(task, failure_of_one(error))

    def _leave(self, task: CaptionTask, failure: InferenceFailed, events: Completions) -> None:
        """Free the rows of a caption that fails by itself."""
        self._engine.slots.leave(task)
        events.failed(task, failure)


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run of the decoder gave, how long it took, and when it ended."""

    step: Step[Any]
    choices: StepOutput
    infer_ns: int
    ran_ns: int


# For each row of the next step, which of a caption's rows it goes on from; or what went wrong with the caption.
_Outcome = Sequence[int] | InferenceFailed


def _read(task: CaptionTask, run: _Run, rows: Sequence[int], whole: bool, events: Completions) -> _Outcome:
    """Let a caption's search read its rows of a step."""
    task.infer_ns += run.infer_ns
    try:
        sources = task.take_word(run.choices, rows, whole=whole)
        events.advanced(task, run.ran_ns)
    except Exception as error:  # the boundary of one caption
        return failure_of_one(error)
    return sources


def _count(active: Collection[CaptionTask], rows: int, size: int) -> StepCount:
    used = sum(len(task.rows) for task in active if not task.future.done())
    return StepCount(rows, len(active), size - used)
