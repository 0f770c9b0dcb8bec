"""Decodes captions of many callers together: sequences join after their encoding and leave at their end token.

    submit ──► waiting ──encode──► joining ──┐
                                             ▼
                            slots: every step runs all rows ──► finished ──► caller

Encoding may run beside a step (several lanes); one step at a time owns the slots. `next_action` says which goes first.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.engine.batcher import Batch, Batcher, Entry
from resonnx_server.engine.device import Device, Job
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.slots import Slots
from resonnx_server.engine.staging import Staging
from resonnx_server.errors import DeadlineExceeded, InferenceFailed, ServerError, Unavailable
from resonnx_server.observe.stats import ModelStats, Timing
from resonnx_server.runtime.beams import Sequence, Token
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.session import Array

_log = logging.getLogger(__name__)

OnWord = Callable[[Token], None]


def next_action(waiting: int, active: int, free: int) -> Literal["encode", "step", "nothing"]:
    """Choose between encoding the waiting and stepping the decoding.

    A step costs nearly the same for one row and for sixteen, so few active rows make steps dear: encode then. With
    many active, an encoder batch stalls them all: let pictures gather to half a batch first.

    Args:
        waiting: Pictures to encode.
        active: Captions being decoded.
        free: Slots that a picture encoded now would find.
    """
    can_encode = waiting > 0 and free > 0
    if can_encode and (active <= 4 or min(waiting, free) >= 8):
        return "encode"
    if active:
        return "step"
    return "nothing"


@dataclass(slots=True, eq=False)
class _Task:
    """One caption on its way; its times are those of its encoder batch and of all steps that it took part in."""

    image: Pixels
    sequence: Sequence
    future: "asyncio.Future[tuple[Sequence, Timing]]"
    on_word: OnWord | None
    arrival_ns: int
    deadline_ns: int | None
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    batch_rows: int = 0

    def is_wanted(self, now_ns: int) -> bool:
        return not self.future.done() and (self.deadline_ns is None or now_ns < self.deadline_ns)


@dataclass(slots=True)
class _Encoded:
    task: _Task
    token: int
    state: list[Array]
    features: list[Array]


@dataclass(slots=True)
class _Events:
    """What one job has to tell the loop, in order."""

    words: list[tuple[_Task, Token]] = field(default_factory=list)
    finished: list[tuple[_Task, Timing | ServerError]] = field(default_factory=list)

    def deliver(self) -> None:
        for task, token in self.words:
            if task.on_word is not None and not task.future.done():
                task.on_word(token)
        for task, outcome in self.finished:
            if task.future.done():
                continue
            if isinstance(outcome, ServerError):
                task.future.set_exception(outcome)
            else:
                task.future.set_result((task.sequence, outcome))


class CaptionEngine:
    """One captioner's work.

    Args:
        graphs: Encoder and decoder.
        spec: Special tokens and limits.
        encode_table: Encoder costs by pictures.
        step_table: Decoder costs by rows; its largest size is the number of slots.
        slots: Buffers of that many rows.
        device: Where it runs.
        stats: The model's counters.
        max_queue_rows: Pictures that may wait.
        max_queue_delay_us: How long the oldest may wait for company.
    """

    def __init__(
        self,
        graphs: CaptionerGraphs,
        spec: CaptionerSpec,
        encode_table: LatencyTable,
        step_table: LatencyTable,
        slots: "Slots[_Task]",
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
    ) -> None:
        self.graphs, self.spec = graphs, spec
        self.table, self.step_table = encode_table, step_table
        self.device, self.stats = device, stats
        self.slots = slots
        self.staging = Staging(encode_table.largest)
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[_Task] = Batcher(encode_table, max_queue_rows, max_queue_delay_us * 1000)
        self._joining: list[_Encoded] = []
        self._encoding = 0
        self._active = 0
        self._stepping = False
        self._last_step_ns = 0
        self._closed = False
        device.attach(self)

    async def submit(
        self, image: Pixels, max_tokens: int, on_word: OnWord | None = None, deadline_ns: int | None = None
    ) -> tuple[Sequence, Timing]:
        """Caption one picture.

        Args:
            image: uint8 [H,W,3], as the manifest's input says.
            max_tokens: Most tokens, the end token included.
            on_word: Called on the event loop with each word as it is decoded.
            deadline_ns: Monotonic; decoding stops when it has passed.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed first.
            InferenceFailed: The runtime failed.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        future: asyncio.Future[tuple[Sequence, Timing]] = self._loop.create_future()
        now = self.device.clock()
        task = _Task(image, Sequence(self.spec, max_tokens), future, on_word, now, deadline_ns)
        entry = Entry(task, 1, now, deadline_ns)
        with self.device.lock:
            self._batcher.push([entry])
            self.device.notify()
        try:
            return await future
        except asyncio.CancelledError:
            # An active row notices by its cancelled future before the next step.
            with self.device.lock:
                self._batcher.discard(entry)
            raise

    def queued_rows(self) -> int:
        """Pictures that wait now."""
        return self._batcher.rows

    def active_rows(self) -> int:
        """Captions being decoded now."""
        return self._active

    def close(self) -> None:
        """Fail what still waits and take no more."""
        self._closed = True
        with self.device.lock:
            self.device.detach(self)
            left = [entry.payload for entry in self._batcher.clear()]
            left += [encoded.task for encoded in self._joining]
            self._joining.clear()
        _Events(finished=[(task, Unavailable("the model is being closed")) for task in left]).deliver()

    # Called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        """See device.Workload."""
        if not self._stepping and (self._active or self._joining):
            return 0
        if self._free() > 0:
            return self._batcher.ready_at_ns()
        return None

    def due_ns(self) -> int:
        """See device.Workload. A caption under way is due when its next word is: one step after the last."""
        due = self._batcher.due_ns()
        if self._active or self._joining:
            next_word = self._last_step_ns + int(self.step_table.cost_ns(self.step_table.largest))
            due = next_word if due is None else min(due, next_word)
        assert due is not None
        return due

    def objective_ns(self) -> int | None:
        """See device.Workload."""
        return self._batcher.objective_ns

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        """See device.Workload."""
        ready_at = self._batcher.ready_at_ns()
        waiting = len(self._batcher) if ready_at is not None and ready_at <= now_ns else 0
        can_step = not self._stepping and (self._active > 0 or bool(self._joining))
        action = next_action(waiting, self._active + len(self._joining) if can_step else 0, self._free())
        if action == "step":
            joining, self._joining = self._joining, []
            self._stepping = True
            self._active += len(joining)
            return _StepJob(self, joining)
        if action == "encode":
            batch = self._batcher.take(now_ns, self._free(), budget_ns)
            if batch.expired:
                late = _Events(finished=[(entry.payload, _too_late()) for entry in batch.expired])
                self.post(late.deliver)
            self._encoding += len(batch.entries)
            return _EncodeJob(self, batch) if batch.entries else None
        return None

    def _free(self) -> int:
        return self.slots.capacity - self._active - len(self._joining) - self._encoding

    # Called by jobs, on a lane.

    def encoded(self, joining: list[_Encoded], rows: int, size: int, ns: int | None) -> None:
        """An encoder batch of `rows` pictures ended; what it gave joins at the next step."""
        with self.device.lock:
            if ns is not None:
                self.table.record(size, ns)
            self._encoding -= rows
            self._joining += joining
            self.device.notify()

    def stepped(self, size: int, ns: int | None) -> None:
        """A decoder step ended; the slots are free for the next."""
        with self.device.lock:
            if ns is not None:
                self.step_table.record(size, ns)
            self._active = len(self.slots)
            self._stepping = False
            self._last_step_ns = self.device.clock()
            self.device.notify()

    def post(self, deliver: Callable[[], object]) -> None:
        """Run `deliver` on the event loop."""
        self._loop.call_soon_threadsafe(deliver)


class _EncodeJob:
    """One encoder batch."""

    def __init__(self, engine: CaptionEngine, batch: Batch[_Task]) -> None:
        self._engine = engine
        self._entries = batch.entries
        self._size = batch.size
        self.cost_ns = engine.table.cost_ns(batch.size) if batch.entries else 0.0

    def run(self) -> None:
        """Encode; the pictures' captions join at the next step."""
        engine, events = self._engine, _Events()
        joining: list[_Encoded] = []
        encode_ns = None
        try:
            joining, encode_ns = self._encode(self._entries, self._size, events)
        except Exception:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("an encoder batch failed", extra={"rows": len(self._entries)})
            for entry in self._entries:
                try:
                    joining += self._encode([entry], engine.table.bucket(1), events)[0]
                except Exception:  # as above
                    events.finished.append((entry.payload, InferenceFailed("the model failed on this picture")))
        engine.encoded(joining, len(self._entries), self._size, encode_ns)
        engine.post(events.deliver)

    def _encode(self, entries: list[Entry[_Task]], size: int, events: _Events) -> tuple[list[_Encoded], int]:
        engine, clock = self._engine, self._engine.device.clock
        start = clock()
        images, buffer = engine.staging.join([entry.payload.image[np.newaxis] for entry in entries], size)
        assembled = clock()
        try:
            state, features, first = engine.graphs.encode(images)
        finally:
            engine.staging.release(buffer)
        ran = clock()
        joining = []
        for row, entry in enumerate(entries):
            task = entry.payload
            task.queue_ns = start - task.arrival_ns
            task.input_ns, task.infer_ns = assembled - start, ran - assembled
            task.batch_rows = len(entries)
            token = engine.spec.start_id
            if first is not None:
                token = int(first[row].argmax())
                _advance(task, token, float(first[row, token]), events)
            if not task.sequence.finished:
                joining.append(_Encoded(task, token, [s[row] for s in state], [f[row] for f in features]))
        rows, input_ns, infer_ns, output_ns = len(entries), assembled - start, ran - assembled, clock() - ran
        engine.post(lambda: engine.stats.batch_done(rows, size, input_ns, infer_ns, output_ns))
        return joining, ran - assembled


class _StepJob:
    """One decoder step of all active captions."""

    def __init__(self, engine: CaptionEngine, joining: list[_Encoded]) -> None:
        self._engine = engine
        self._joining = joining
        self.cost_ns = engine.step_table.cost_ns(engine.step_table.largest)

    def run(self) -> None:
        """Let the encoded join and the unwanted leave, step, and tell who has a word or has ended."""
        engine, events = self._engine, _Events()
        size, step_ns = 0, None
        try:
            self._join_and_leave(events)
            if len(engine.slots):
                size = engine.step_table.bucket(len(engine.slots))
                step_ns = self._step(size, events)
        except Exception:  # the boundary of a step: whatever fails, every row gets an outcome
            _log.exception("a decoder step failed", extra={"rows": len(engine.slots)})
            failed = InferenceFailed("the decoder failed")
            events.finished += [(task, failed) for task in engine.slots.owners]
            events.finished += [(encoded.task, failed) for encoded in self._joining]
            while len(engine.slots):
                engine.slots.leave(len(engine.slots) - 1)
        engine.stepped(size, step_ns)
        engine.post(events.deliver)

    def _join_and_leave(self, events: _Events) -> None:
        slots, now = self._engine.slots, self._engine.device.clock()
        for row in reversed(range(len(slots))):
            task = slots.owners[row]
            if not task.is_wanted(now):
                slots.leave(row)
                events.finished.append((task, _too_late()))
        for encoded in self._joining:
            if encoded.task.is_wanted(now):
                slots.join(encoded.task, encoded.token, encoded.state, encoded.features)
            else:
                events.finished.append((encoded.task, _too_late()))

    def _step(self, size: int, events: _Events) -> int:
        engine, slots, clock = self._engine, self._engine.slots, self._engine.device.clock
        rows = len(slots)
        start = clock()
        step = engine.graphs.step(*slots.inputs(size))
        ran = clock()
        slots.store(step.top_ids[:, 0], step.state)
        ids, log_probs = step.top_ids[:rows, 0].tolist(), step.top_log_probs[:rows, 0].tolist()
        for row in reversed(range(rows)):
            task = slots.owners[row]
            task.infer_ns += ran - start
            _advance(task, ids[row], log_probs[row], events)
            if task.sequence.finished:
                slots.leave(row)
        engine.post(lambda: engine.stats.step_done(rows))
        return ran - start


def _advance(task: _Task, token: int, log_prob: float, events: _Events) -> None:
    word = task.sequence.advance(token, log_prob)
    if word is not None and task.on_word is not None:
        events.words.append((task, word))
    if task.sequence.finished:
        timing = Timing(task.queue_ns, task.input_ns, task.infer_ns, 0, task.batch_rows)
        events.finished.append((task, timing))


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the caption was finished")
