"""The two kinds of work of a captioner, on a device's lane: an encoder batch, and a decoder step of all captions.

A step owns the slots. Jobs never raise: whatever fails, everybody concerned gets an outcome.
"""

import logging
from typing import TYPE_CHECKING

import numpy as np

from resonnx_server.engine.batcher import Batch, Entry
from resonnx_server.engine.caption_task import CaptionTask, Encoded, Events
from resonnx_server.engine.runner import AnyRunner
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.stats import StepCount
from resonnx_server.runtime.choices import Choices

if TYPE_CHECKING:
    from resonnx_server.engine.captioner import CaptionEngine

_log = logging.getLogger(__name__)


class EncodeJob:
    """One encoder batch."""

    def __init__(self, engine: "CaptionEngine", batch: Batch[CaptionTask], runner: AnyRunner) -> None:
        self._engine = engine
        self._entries = batch.entries
        self.tasks = [entry.payload for entry in batch.entries]
        self.size = batch.size
        self.runner = runner
        self.cost_ns = runner.table.cost_ns(batch.size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Encode; the pictures' captions join at the next step."""
        engine, events = self._engine, Events()
        joining: list[Encoded] = []
        encode_ns = None
        try:
            joining, encode_ns = self._encode(self._entries, self.size, events)
        except Exception:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("an encoder batch failed", extra={"rows": len(self._entries)})
            for entry in self._entries:
                try:
                    joining += self._encode([entry], self.runner.table.bucket(1), events)[0]
                except Exception:  # as above
                    events.failed(entry.payload, InferenceFailed("the model failed on this picture"))
        # First: what the next job tells of these captions must come after.
        engine.post(events)
        engine.encoded(self, joining, encode_ns)

    def _encode(self, entries: list[Entry[CaptionTask]], size: int, events: Events) -> tuple[list[Encoded], int]:
        engine, clock = self._engine, self._engine.device.clock
        start = clock()
        images, buffer = engine.staging.join([entry.payload.image[np.newaxis] for entry in entries], size)
        assembled = clock()
        try:
            state, features, first_log_probs = self.runner.run(images)
        finally:
            engine.staging.release(buffer)
        ran = clock()
        first = None if first_log_probs is None else Choices.of_log_probs(first_log_probs[: len(entries)])
        joining = []
        for row, entry in enumerate(entries):
            task = entry.payload
            task.queue_ns = start - task.arrival_ns
            task.input_ns, task.infer_ns = assembled - start, ran - assembled
            task.batch_rows = len(entries)
            if first is not None:
                task.search.advance(first, [row])
                events.advanced(task, ran)
            if task.search.finished:
                events.finished.append((task, task.result()))
            else:
                joining.append(Encoded(task, state, features, row))
        rows, input_ns, infer_ns, output_ns = len(entries), assembled - start, ran - assembled, clock() - ran
        engine.call(lambda: engine.stats.batch_done(rows, size, input_ns, infer_ns, output_ns))
        return joining, ran - assembled


class StepJob:
    """One decoder step of all captions under way.

    Attributes:
        size: Rows that it was expected to have; those that it had, once it ran.
    """

    def __init__(self, engine: "CaptionEngine", joining: list[Encoded], runner: AnyRunner, size: int) -> None:
        self._engine = engine
        self._joining = joining
        self.size = size
        self.runner = runner
        self.cost_ns = runner.table.cost_ns(size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Let the encoded join and the unwanted leave, step, and tell who has a word or has ended."""
        engine, slots = self._engine, self._engine.slots
        events = engine.untold
        step_ns = None
        try:
            self._join_and_leave(events)
            if len(slots):
                self.size = self.runner.table.bucket(len(slots))
                step_ns = self._step(self.size, events)
        except Exception:  # the boundary of a step: whatever fails, every caption gets an outcome
            _log.exception("a decoder step failed", extra={"rows": len(slots)})
            for task in {**slots.owners, **{encoded.task: None for encoded in self._joining}}:
                events.failed(task, InferenceFailed("the decoder failed"))
            for task in list(slots.owners):
                slots.leave(task)
        # First: once the step has ended, another lane may begin the next.
        engine.tell()
        engine.stepped(self, step_ns)

    def _join_and_leave(self, events: Events) -> None:
        slots, now = self._engine.slots, self._engine.device.clock()
        for task in [task for task in slots.owners if not task.is_wanted(now)]:
            slots.leave(task)
            events.too_late(task)
        for encoded in self._joining:
            task = encoded.task
            if task.is_wanted(now):
                slots.join(task, task.search.tokens, encoded.state, encoded.features, encoded.row)
            else:
                events.too_late(task)

    def _step(self, size: int, events: Events) -> int:
        slots, clock = self._engine.slots, self._engine.device.clock
        rows = len(slots)
        active = [task for task in slots.owners if not task.search.finished]
        start = clock()
        step = self.runner.run(
            *slots.inputs(size),
            attention=any(task.wants_attention for task in active),
            log_probs=any(task.search.needs_log_probs for task in active),
        )
        ran = clock()
        choices = Choices.of_step(step)
        used = sum(len(task.rows) for task in active if not task.future.done())
        moves, broken = [], []
        for task in active:
            task.infer_ns += ran - start
            if all(map(choices.is_sound, task.rows)):
                # All searches read before any row moves.
                moves.append((task, task.search.advance(choices, task.rows)))
                events.advanced(task, ran)
            else:
                broken.append(task)
        slots.store(step.state)
        for task in broken:
            slots.leave(task)
            events.failed(task, InferenceFailed("the decoder gave values that are no probabilities"))
        for task, sources in moves:
            if not task.search.finished:
                slots.advance(task, sources, task.search.tokens)
        self._release(events)
        events.steps.append(StepCount(rows, len(active), size - used))
        return ran - start

    def _release(self, events: Events) -> None:
        """Answer captions that have ended and free their rows: each at once, or all together."""
        engine, slots = self._engine, self._engine.slots
        ended = [task for task in slots.owners if task.search.finished]
        if engine.pacing.holds_finished and len(ended) < len(slots.owners):
            return
        for task in ended:
            slots.leave(task)
            engine.ended(task)
            events.finished.append((task, task.result()))
