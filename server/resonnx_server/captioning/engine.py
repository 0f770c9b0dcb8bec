"""Decodes captions of many requests together: they join after their encoding and leave at their end token.

    submit ──► queue ──encode──► joining ──┐
                                           ▼
                          slots: every step runs all rows ──► finished ──► caller

One step runs at a time, which owns the slots. Up to `InstanceGroup.max_concurrent_batches` encoder batches run beside
it; if that is one, encoding and steps take turns, as each uses the whole device. schedule.py says which job could
begin, encode_policy.py which goes first; encoding.py and stepping.py are the jobs.
"""

from collections.abc import Callable, Iterable
from typing import Any

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.captioning.encode_policy import EncodePolicy
from resonnx_server.captioning.encoding import EncodeJob
from resonnx_server.captioning.forecast import CaptionQueue, Forecast
from resonnx_server.captioning.request import (
    CaptionCost,
    Captioned,
    CaptionerInfo,
    CaptionTask,
    CaptionWork,
    Completions,
    start_search,
)
from resonnx_server.captioning.schedule import CaptionSchedule
from resonnx_server.captioning.slots import Slots
from resonnx_server.captioning.stepping import StepJob
from resonnx_server.drift.drift import Drift
from resonnx_server.errors import InferenceHung, Unavailable
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.batcher import Batch
from resonnx_server.scheduling.deadline_admission import Decoding, Objective
from resonnx_server.scheduling.device import Device, Job
from resonnx_server.scheduling.engine import Engine, closing
from resonnx_server.scheduling.queue import Entry, QueueReservation
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, AnySessionPool, BufferPool
from resonnx_server.scheduling.sharing import COMPARISON
from resonnx_server.scheduling.watchdog import RunLimit

# As callers see it.
AnyCaptionEngine = Engine[CaptionCost, CaptionWork, Captioned, Any]


class CaptionEngine(Engine[CaptionCost, CaptionWork, Captioned, CaptionTask]):
    """One captioner's work on a device.

    Args:
        spec: Special tokens and limits.
        encoders: Run the encoder; costs by pictures.
        decoders: Run the decoder; costs by rows, up to the number of slots.
        slots: Hold the rows of the captions under way.
        device: Runs the jobs.
        stats: The model's counters.
        max_queue_rows: Most pictures that may wait.
        max_queue_delay_us: Longest wait of the oldest picture for a fuller batch.
        objective: The model's latency objective, if it has one.
        run_timeout_s: Longest run of either graph; None to derive it from the latencies.
        policies: Limits of waiting by priority.
        picture_bytes: Bytes of a picture and of the encoder's outputs for it.
        step_bytes: Bytes of the decoder's outputs for a row.
        drift: See Engine.
    """

    _queue: CaptionQueue

    def __init__(
        self,
        spec: CaptionerSpec,
        encoders: AnyInstanceGroup,
        decoders: AnyInstanceGroup,
        slots: Slots[CaptionTask, Any],
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
        run_timeout_s: float | None = None,
        policies: QueuePolicies | None = None,
        picture_bytes: int = 0,
        step_bytes: int = 0,
        drift: Drift | None = None,
    ) -> None:
        self._limit = RunLimit(run_timeout_s)
        self.slots = slots
        encoded = encoders.table.largest * encoders.max_concurrent_batches * picture_bytes
        self._batch_bytes = encoded + slots.host_bytes + slots.capacity * step_bytes
        self.encoders, self.decoders = encoders, decoders
        # Of equal words the first: a vocabulary should have none.
        word_ids = {word: i for i, word in reversed(list(enumerate(spec.vocabulary)))}
        self.info = CaptionerInfo(spec, word_ids, slots.capacity)
        stats.slots = slots.capacity
        encode_table, self._step_table = encoders.table, decoders.table
        self.schedule = CaptionSchedule(
            EncodePolicy(encode_table, self._step_table),
            max_jobs=encoders.max_concurrent_batches,
            capacity=slots.capacity,
            largest=encode_table.largest,
            mean_steps=spec.max_tokens / 2,
            clock=device.clock,
        )
        tables = (*encoders.tables, *decoders.tables)
        queue = CaptionQueue(device, encoders, max_queue_rows, max_queue_delay_us * 1000, objective, tables, policies)
        beside = encoders.max_concurrent_batches > 1
        self._forecast = Forecast(queue, self.schedule, decoders, slots.capacity, beside=beside)
        self._buffers = BufferPool(encode_table.largest, device.allocate)
        # Of steps; owned by the step that runs.
        self._pending = Completions()
        self._last_step_ns = 0
        super().__init__(device, stats, queue, drift)

    def _admit(
        self, cost: CaptionCost, deadline_ns: int | None, priority: int, decoding: Decoding | None, caller: str
    ) -> QueueReservation:
        def predict() -> tuple[float, float]:
            own_ns = self._forecast.own_ns(cost)
            if self.schedule.is_idle and not self.schedule.decodes and not self._has_queue:
                return own_ns, 0.0
            return own_ns, max(0.0, self._forecast.wait_ns(cost, priority, caller) - own_ns)

        demand = self._forecast.of_one(cost.options)
        return self._queue.reserve(
            cost.pictures, deadline_ns, priority, decoding, predict, row_demand=demand, caller=caller
        )

    def _entry(self, work: CaptionWork, reservation: QueueReservation) -> Entry[CaptionTask]:
        now, options, deadline_ns = self.device.clock(), work.options, reservation.deadline_ns
        search, steps = start_search(self.info.spec, options), self._forecast.steps(options)
        future, turn = self._loop.create_future(), (reservation.priority, reservation.caller)
        task = CaptionTask(*work, search, future, now, deadline_ns, steps, turn, identity=IDENTITY.get())
        entry = Entry(task, 1, now, deadline_ns, priority=reservation.priority, caller=reservation.caller)
        entry.weight = self._forecast.weight(options)
        if reservation.caller == COMPARISON:
            # Its batches are counted apart.
            entry.shape = COMPARISON
        return entry

    @property
    def batch_bytes(self) -> int:
        return self._batch_bytes

    def _pools(self) -> Iterable[AnySessionPool]:
        return (*self.encoders.pools, *self.decoders.pools)

    def _free_memory(self) -> None:
        del self.slots, self._buffers

    def _clear_buffers(self) -> None:
        self._buffers.clear()

    def _abandon(self, error: Callable[[], Unavailable]) -> None:
        left = [entry.payload for entry in self._queue.clear()]
        if self.schedule.is_idle:
            left += [*self.schedule.clear(), *self.slots.owners]
        completions = Completions()
        for task in left:
            completions.failed(task, error())
        self._post(completions)

    # Workload: called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        schedule = self.schedule
        if not schedule.can_begin or self._replacement.is_paused:
            return None
        # With nothing to decode, waiting pictures are encoded.
        if schedule.can_step:
            return 0
        return self._queue.ready_at_ns() if self._queue.rows and self._fitting() else None

    def due_ns(self) -> int:
        # The next word of a caption is due one step after the last.
        due = self._queue.due_ns() if self._queue.rows else None
        if self.schedule.decodes:
            next_word = self._last_step_ns + int(self._step_table.cost_ns(self._step_table.largest))
            due = next_word if due is None else min(due, next_word)
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        steps = self._step_table
        return steps.cost_ns(steps.sizes[0]) if self.schedule.can_step else self._queue.shortest_ns()

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        waiting = 0
        if self._queue.rows:
            ready_at = self._queue.ready_at_ns()
            waiting = self._fitting() if ready_at is not None and ready_at <= now_ns else 0
        if waiting and (pictures := self._to_encode(waiting)):
            batch = self._queue.take(now_ns, pictures, budget_ns)
            if batch.expired:
                late = Completions()
                for entry in batch.expired:
                    late.failed(entry.payload, self._queue.lateness(entry, now_ns))
                self._post(late)
            if batch.entries:
                return self._encode(batch)
        return self._step() if self.schedule.can_step else None

    def _to_encode(self, waiting: int) -> int:
        """Return how many of `waiting` pictures to encode now; 0 is to step."""
        pictures = self.schedule.to_encode(waiting, self.device.idle_lanes())
        # If no step can begin, none is held up.
        return self._queue.in_turn(pictures) if pictures and self.schedule.can_step else pictures

    def _fitting(self) -> int:
        return self.schedule.fitting(entry.payload for entry in self._queue)

    def _encode(self, batch: Batch[CaptionTask]) -> EncodeJob:
        is_alone = self.schedule.is_idle and not self.schedule.decodes and self._is_only_job()
        pool, tasks = self.encoders.pick(batch.size, is_alone=is_alone), [entry.payload for entry in batch.entries]
        running = (pool, batch.size, self.device.clock, Completions(), self._encoded, self._gave_up_encoding)
        job = EncodeJob(*running, self._limit, tasks, self._buffers, batch.dispatch)
        self.schedule.begin_encoding(job.tasks, has_all_cores=job.has_all_cores)
        return job

    def _step(self) -> StepJob:
        joining = self.schedule.begin_step()
        size = self._step_table.padded_batch_size(min(self.schedule.active.rows, self.slots.capacity))
        pool = self.decoders.pick(size, is_alone=self._is_only_job())
        if pool.has_all_cores:
            self.schedule.take_device()
        running = (pool, size, self.device.clock, self._pending, self._stepped, self._gave_up_step, self._limit)
        return StepJob(*running, self.slots, joining)

    def _is_only_job(self) -> bool:
        """Whether nothing runs on the device, and no picture could be encoded beside the job that begins."""
        return not self._has_queue and self.device.idle_lanes() == self.device.lanes

    @property
    def _has_queue(self) -> bool:
        return self._queue.rows + self._queue.reserved_rows > 0

    # Results of jobs, from their lane, under the device's lock.

    def _encoded(self, job: EncodeJob) -> None:
        self._post(job.completions, self._stats_of(job.tasks[0].turn[1]))
        self.schedule.end_encoding(job.tasks, job.joining)
        self._queue.decoding(self.schedule.decoding)
        self._ended(job)

    def _stepped(self, job: StepJob) -> None:
        if (due := self._pending.due()) is not None:
            self._post(due)
        self._last_step_ns = now = self.device.clock()
        rows, infer_ns = (0, 0) if job.infer_ns is None else (job.rows, job.infer_ns)
        self.schedule.end_step(self.slots.owners, rows, now - job.begin_ns - infer_ns)
        self._queue.decoding(self.schedule.decoding)
        for task in job.ended:
            self.schedule.learn(task.steps)
            self._forecast.learn_length(task.steps, task.options)
        self._ended(job)

    def _gave_up_encoding(self, job: EncodeJob) -> None:
        self._post(Completions(finished=[(task, InferenceHung()) for task in job.tasks]))
        self.schedule.end_encoding(job.tasks, [])
        self._gave_up(job)

    def _gave_up_step(self, job: StepJob) -> None:
        # The job may go on at any time: it keeps its slots and completions, and nothing of them is used again.
        pending, self._pending = self._pending, Completions()
        completions = Completions(finished=list(pending.finished))
        for task in (*job.slots.owners, *(encoded.task for encoded in job.joining)):
            completions.failed(task, InferenceHung())
        self.slots = job.slots.empty()
        self._post(completions)
        self.schedule.end_step(())
        self._queue.decoding(self.schedule.decoding)
        self._gave_up(job)

    def _gave_up(self, job: EncodeJob | StepJob) -> None:
        self._replacement.abandoned(job.pool)
        if self._closed:
            self._abandon(closing)

    def _ended(self, job: EncodeJob | StepJob) -> None:
        if job.infer_ns is not None:
            job.pool.table.record(job.size, job.infer_ns)
        if job.was_interrupted:
            self._replacement.interrupted()
        if job.lacks_memory:
            self._replacement.lacks_memory(job.pool)
        if self._closed:
            self._abandon(closing)

    def _post(self, completions: Completions, stats: ModelStats | None = None) -> None:
        self._loop.call_soon_threadsafe(completions.deliver, stats or self.stats, self._watch_of)
