"""Decodes captions of many callers together: sequences join after their encoding and leave at their end token.

    submit ──► waiting ──encode──► joining ──┐
                                             ▼
                            slots: every step runs all rows ──► finished ──► caller

One step at a time, which owns the slots. Beside it pictures are encoded, as many batches at once as measurement says
(`InstanceGroup.max_concurrent_batches`); if that is one, encoding and steps take turns, as each uses the whole device.
caption_schedule.py says what could begin, pacing.py which goes first, caption_jobs.py is what a lane does.
"""

import asyncio
from typing import Any

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.captioning.completions import Completions, Outbox
from resonnx_server.captioning.encode_policy import CaptionPolicy, pacing
from resonnx_server.captioning.forecast import Forecast
from resonnx_server.captioning.jobs import EncodeJob, StepJob
from resonnx_server.captioning.queue import CaptionQueue
from resonnx_server.captioning.request import Captioned, CaptionTask, Encoded, OnWords
from resonnx_server.captioning.rows import SlotRows
from resonnx_server.captioning.schedule import CaptionSchedule
from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.decoding.beams import BeamSearch
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.sampling import Sampling
from resonnx_server.runtime.decoding.search import DecodeOptions, Search
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.batcher import DEFAULT_PRIORITY, Batch, Entry, QueueReservation
from resonnx_server.scheduling.buffers import BufferPool
from resonnx_server.scheduling.deadline_admission import Decoding, Objective
from resonnx_server.scheduling.device import Device, Job
from resonnx_server.scheduling.session_pool import AnyInstanceGroup


def start_search(spec: CaptionerSpec, options: DecodeOptions) -> Search:
    """Begin a caption as `options` say."""
    if options.temperature > 0:
        return Sampling(spec, options)
    return BeamSearch(spec, options) if options.beam_width > 1 else Greedy(spec, options)


class CaptionEngine:
    """One captioner's work.

    Args:
        spec: Special tokens and limits.
        encoders: Run Captioner.encode; costs by pictures.
        decoders: Run Captioner.step; costs by rows, of which the largest is the number of slots.
        slots: That many rows, which hold what the graphs give and take.
        device: Where it runs.
        stats: The model's counters.
        policy: When to encode and when to step.
        max_queue_rows: Pictures that may wait.
        max_queue_delay_us: How long the oldest may wait for company.
        objective: What the model should keep, if anything.
    """

    def __init__(
        self,
        spec: CaptionerSpec,
        encoders: AnyInstanceGroup,
        decoders: AnyInstanceGroup,
        slots: SlotRows[CaptionTask, Any],
        device: Device,
        stats: ModelStats,
        *,
        policy: CaptionPolicy = "continuous",
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
    ) -> None:
        self.slots = slots
        self.spec = spec
        self.encoders, self.decoders = encoders, decoders
        self.device, self.stats = device, stats
        self.pacing = pacing(policy, encoders.table, decoders.table)
        self._schedule = CaptionSchedule(
            self.pacing,
            instances=encoders.max_concurrent_batches,
            capacity=slots.capacity,
            largest=encoders.table.largest,
            mean_steps=spec.max_tokens / 2,
        )
        self.staging = BufferPool(encoders.table.largest, device.allocate)
        # Of equal words the first: a vocabulary should have none.
        self.word_ids = {word: i for i, word in reversed(list(enumerate(spec.vocabulary)))}
        stats.slots = slots.capacity
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._loop, stats)
        self._batcher = CaptionQueue(
            device,
            encoders,
            max_queue_rows,
            max_queue_delay_us * 1000,
            objective,
            (*encoders.tables, *decoders.tables),
        )
        self._forecast = Forecast(
            self._batcher,
            self._schedule,
            decoders,
            slots.capacity,
            self.pacing.most_captions,
            encoders.max_concurrent_batches > 1,
        )
        self._last_step_ns = 0
        self._closed = False
        device.attach(self)

    def place(
        self,
        pictures: int,
        options: DecodeOptions,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
    ) -> QueueReservation:
        """Keep room for pictures that are yet to be decoded: `with engine.place(…) as place`.

        Args:
            pictures: How many, each of which is submitted by itself.
            options: As for `submit`.
            deadline_ns: As for `submit`.
            priority: As for `submit`.
            decoding: How long that should take; None if they are.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline would pass before the captions are there, even on an idle device.
            WaitTooLong: It would for what waits before them.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        with self.device.lock:

            def predict() -> tuple[float, float]:
                own_ns = self._forecast.own_ns(pictures, options)
                wait_ns = self._wait_ns(pictures, options, priority) if self._has_work() else 0.0
                return own_ns, max(0.0, wait_ns - own_ns)

            demand = self._forecast.of_one(options)
            return self._batcher.reserve(pictures, deadline_ns, priority, decoding, predict, row_demand=demand)

    async def submit(
        self,
        image: Pixels,
        options: DecodeOptions,
        on_words: OnWords | None = None,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        place: QueueReservation | None = None,
    ) -> Captioned:
        """Caption one picture.

        Args:
            image: uint8 [H,W,3], as the manifest's input says.
            options: How to decode; beam_width at most the slots.
            on_words: Called on the event loop with words of the best caption as they become certain.
            deadline_ns: Monotonic; decoding stops when it has passed.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            place: Where room was kept for it; None asks for it now.

        Raises:
            Overloaded: The queue is full.
            WaitTooLong: The deadline would pass before the caption is there, for what waits before it.
            DeadlineUnreachable: It would even on an idle device, or when its turn has come.
            DeadlineExceeded: The deadline passed first.
            InferenceFailed: The runtime failed.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        if place is None:
            with self.place(1, options, deadline_ns, priority) as place:
                return await self.submit(image, options, on_words, deadline_ns, priority, place)
        future: asyncio.Future[Captioned] = self._loop.create_future()
        now = self.device.clock()
        search = start_search(self.spec, options)
        steps = (self._forecast.steps(options), options.min_tokens, options.max_tokens)
        task = CaptionTask(image, search, options.attention, future, on_words, now, deadline_ns, *steps)
        entry = Entry(task, 1, now, deadline_ns, priority=priority)
        with self.device.lock:
            self._batcher.push(entry, place)
            self.device.notify(self.ready_at_ns())
        try:
            return await future
        except asyncio.CancelledError:
            # An active caption is noticed by its cancelled future before the next step.
            with self.device.lock:
                self._batcher.discard(entry)
            raise
        finally:
            # They hold the error, which holds this frame: pictures would live until garbage is collected.
            del future, task, entry

    def queued(self) -> int:
        """Captions that wait now, which are as many as pictures."""
        return len(self._batcher)

    def queued_rows(self) -> int:
        """Pictures that wait now."""
        return self._batcher.rows

    def active_rows(self) -> int:
        """Rows that captions under way take, or may come to take."""
        return self._schedule.active_rows

    def close(self) -> None:
        """Fail what has no answer yet and take no more."""
        with self.device.lock:
            self._closed = True
            self.device.detach(self)
            self._abandon_if_closed()

    # Called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        """See device.Workload."""
        if not self._schedule.can_begin:
            return None
        # With nothing to decode, every policy encodes what waits.
        if self._schedule.can_step:
            return 0
        return self._batcher.ready_at_ns() if self._fitting() else None

    def due_ns(self) -> int:
        """See device.Workload. A caption under way is due when its next word is: one step after the last."""
        due = self._batcher.due_ns()
        if self._schedule.decodes:
            steps = self.decoders.table
            next_word = self._last_step_ns + int(steps.cost_ns(steps.largest))
            due = next_word if due is None else min(due, next_word)
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        """See device.Workload."""
        steps = self.decoders.table
        return steps.cost_ns(steps.sizes[0]) if self._schedule.can_step else self._batcher.shortest_ns()

    def objective_ns(self) -> int | None:
        """See device.Workload."""
        return self._batcher.live_objective_ns()

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        """See device.Workload."""
        ready_at = self._batcher.ready_at_ns()
        waiting = self._fitting() if ready_at is not None and ready_at <= now_ns else 0
        if pictures := self._schedule.to_encode(waiting, self.device.idle_lanes()):
            batch = self._batcher.take(now_ns, pictures, budget_ns)
            if batch.expired:
                late = Completions()
                for entry in batch.expired:
                    late.failed(entry.payload, self._batcher.lateness(entry, now_ns))
                self.outbox.post(late)
            if batch.entries:
                return self._encode(batch)
        return self._step() if self._schedule.can_step else None

    def _fitting(self) -> int:
        return self._schedule.fitting(entry.payload for entry in self._batcher)

    def _encode(self, batch: Batch[CaptionTask]) -> EncodeJob:
        is_alone = self._schedule.is_idle and not self._schedule.decodes and self._is_only_job()
        job = EncodeJob(self, batch, self.encoders.pick(batch.size, is_alone=is_alone))
        self._schedule.begin_encoding(job.tasks, has_all_cores=job.has_all_cores)
        return job

    def _step(self) -> StepJob:
        joining = self._schedule.begin_step()
        size = self.decoders.table.padded_batch_size(min(self._schedule.active_rows, self.slots.capacity))
        job = StepJob(self, joining, self.decoders.pick(size, is_alone=self._is_only_job()), size)
        self._schedule.has_whole_device = job.has_all_cores
        return job

    def _has_work(self) -> bool:
        """Whether anything is under way, waits, or is about to."""
        waiting = self._batcher.rows + self._batcher.reserved_rows
        return not self._schedule.is_idle or self._schedule.decodes or waiting > 0

    def _is_only_job(self) -> bool:
        """Whether nothing runs on the device, and no picture could be encoded beside what begins now."""
        waiting = self._batcher.rows + self._batcher.reserved_rows
        return not waiting and self.device.idle_lanes() == self.device.lanes

    def _wait_ns(self, pictures: int, options: DecodeOptions, priority: int) -> float:
        """Expected time until pictures that came now would have their captions, were the device this model's alone."""
        return self._forecast.wait_ns(pictures, options, priority)

    # Called by jobs, on a lane.

    def job_done(self) -> None:
        """Count the lane of the job that calls as idle."""
        with self.device.lock:
            self.device.job_done()

    def encoded(self, job: EncodeJob, joining: list[Encoded], ns: int | None) -> None:
        """Take what an encoder batch gave; it joins at the next step."""
        with self.device.lock:
            self._schedule.end_encoding(job.tasks, joining)
            self._abandon_if_closed()
            if ns is not None:
                self.encoders.record(job.runner, job.size, ns)

    def ended(self, task: CaptionTask) -> None:
        """Learn from a finished caption; by the step under way."""
        self._schedule.learn(task.steps)
        self._forecast.ended(task.steps, task.least_steps, task.most_steps)

    def stepped(self, job: StepJob, ns: int | None) -> None:
        """Take note that a step ended."""
        with self.device.lock:
            self._schedule.end_step(self.slots.owners)
            self._last_step_ns = self.device.clock()
            self._abandon_if_closed()
            if ns is not None:
                self.decoders.record(job.runner, job.size, ns)
                self._forecast.handled(job.rows, self._last_step_ns - job.begin_ns - ns)

    def _abandon_if_closed(self) -> None:
        """Once closed and no job under way, fail everybody; with the lock held."""
        if not self._closed or not self._schedule.is_idle:
            return
        events = Completions()
        waiting = [entry.payload for entry in self._batcher.clear()]
        for task in (*waiting, *self._schedule.clear(), *self.slots.owners):
            events.failed(task, Unavailable("the model is being closed"))
        self.outbox.post(events)
