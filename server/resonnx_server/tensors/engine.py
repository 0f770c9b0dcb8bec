"""Batches tensor requests of many callers through one session: classifiers and bare ONNX files.

The jobs are in jobs.py.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from resonnx_server.drift.drift import Drift
from resonnx_server.errors import InferenceHung, Unavailable
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.stats import ModelStats, Timing
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import Decoding, Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.engine import Engine
from resonnx_server.scheduling.queue import Entry, QueueReservation
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.session_pool import AnySessionPool, BufferPool, TensorInstanceGroup, Tensors
from resonnx_server.scheduling.sharing import COMPARISON
from resonnx_server.scheduling.watchdog import RunLimit
from resonnx_server.tensors.jobs import JobContext, Outcomes, TensorJob, TensorTask, deliver
from resonnx_server.tensors.outputs import Part, joined

# A queue of this many batches per concurrent batch is long.
_LONG_QUEUE: Final = 2


TensorAnswer = tuple[Tensors, Timing]


class TensorCost(NamedTuple):
    """The size of a request.

    Attributes:
        rows: Rows of its first input; 1 if the model is not batched.
        whole: It feeds optional inputs without a batch axis, so it runs unpadded in a batch of its own, and the queue
            counts it as one row.
        predict: Returns the expected ns of its own work on an idle device, and of the queue before it, where these are
            not the queue's alone; called with the lock held.
        room: Rows of the queue's limit that it holds, if it is submitted in parts of which few wait at a time; None for
            all its rows.
    """

    rows: int
    whole: bool = False
    predict: Callable[[], tuple[float, float]] | None = None
    room: int | None = None


# As callers see it.
AnyTensorEngine = Engine[TensorCost, Tensors, TensorAnswer, Any]


class TensorEngine(Engine[TensorCost, Tensors, TensorAnswer, TensorTask]):
    """One model's tensor work.

    A request is a dict of arrays [rows, ...] by input name, all with the same rows (any shapes if not batched). Large
    requests are split over several batches.

    Args:
        instance_group: The sessions and their latencies.
        device: Where they run.
        stats: The model's counters.
        max_queue_rows: Limit of waiting and reserved rows.
        max_queue_delay_us: Longest time that the oldest request waits for company.
        objective: Target latency, or None.
        batched: False for a model without a batch axis: each request runs alone.
        finite: A request fails if its outputs contain values that are not finite. Not for models of unknown meaning,
            which may use NaN.
        run_timeout_s: Longest run; None to derive it from the latencies.
        policies: Limits of waiting by priority.
        drift: See Engine; the graph then has the output drift_features, which callers do not get.
        row_bytes: Bytes of a row of all inputs and outputs (of a request, if not batched); free sizes count as 1.
    """

    # What subclasses use in their place.
    _queue_type: type[Batcher[TensorTask]] = Batcher
    _job_type: type[TensorJob] = TensorJob

    def __init__(
        self,
        instance_group: TensorInstanceGroup,
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
        batched: bool = True,
        finite: bool = False,
        run_timeout_s: float | None = None,
        policies: QueuePolicies | None = None,
        row_bytes: int = 0,
        drift: Drift | None = None,
    ) -> None:
        self.instance_group = instance_group
        self._batched, self._row_bytes = batched, row_bytes
        self._buffers: defaultdict[str, BufferPool] = defaultdict(
            partial(BufferPool, instance_group.table.largest, device.allocate)
        )
        limit = RunLimit(run_timeout_s)
        ends = (self._finished, self._gave_up)
        self._context = JobContext(device.clock, self._buffers, batched, finite, limit, *ends, drift is not None)
        self._running = 0
        # Expected end of a batch that uses all cores, if one is running.
        self._all_cores_until_ns: int | None = None
        delay_ns = max_queue_delay_us * 1000
        queue = self._queue_type(device, instance_group, max_queue_rows, delay_ns, objective, policies=policies)
        super().__init__(device, stats, queue, drift)

    def own_ns(self, rows: int) -> float:
        """Return the expected time of rows on an idle device; with the device's lock held."""
        return self._queue.own_ns(rows)

    def ahead_ns(self, priority: int, caller: str, rows: int) -> float:
        """Return the expected time of what precedes a caller's new rows; with the device's lock held."""
        return self._queue.ahead_ns(priority, caller, rows)

    def _admit(
        self, cost: TensorCost, deadline_ns: int | None, priority: int, decoding: Decoding | None, caller: str
    ) -> QueueReservation:
        if not cost.whole:
            given = cost.rows, deadline_ns, priority, decoding, cost.predict
            return self._queue.reserve(*given, caller=caller, room=cost.room)

        def predict() -> tuple[float, float]:
            own_ns = min(table.time_ns(cost.rows) for table in self.instance_group.tables)
            return own_ns, self._queue.ahead_ns(priority, caller)

        # The inputs that it overrides may make the model slow, so its time says nothing about other requests.
        return self._queue.reserve(1, deadline_ns, priority, decoding, predict, whole=True, caller=caller)

    def _entry(self, work: Tensors, reservation: QueueReservation) -> Entry[TensorTask]:
        rows, whole_rows = len(next(iter(work.values()))) if self._batched else 1, None
        shape: Hashable = tuple(array.shape[1:] for array in work.values())
        if reservation.whole or not self._batched:
            # Unequal to any other shape, so that the request shares no batch.
            shape, rows, whole_rows = object(), 1, rows if self._batched else None
        future, more = self._loop.create_future(), reservation.more_outputs
        task = TensorTask(work, rows, future, whole_rows, more, identity=IDENTITY.get())
        since_ns = reservation.since_ns or self.device.clock()
        entry = Entry(task, rows, since_ns, reservation.deadline_ns, shape, reservation.priority)
        entry.caller, entry.weight = reservation.caller, whole_rows or 1
        return entry

    @property
    def batch_bytes(self) -> int:
        group = self.instance_group
        return group.table.largest * group.max_concurrent_batches * self._row_bytes

    def _pools(self) -> Iterable[AnySessionPool]:
        return self.instance_group.pools

    def _free_memory(self) -> None:
        self._buffers.clear()
        # It leads back here.
        del self._context

    async def _answer(self, outcome: list[Part]) -> TensorAnswer:
        return await joined(outcome)

    def _clear_buffers(self) -> None:
        for buffers in self._buffers.values():
            buffers.clear()

    def _abandon(self, error: Callable[[], Unavailable]) -> None:
        deliver([(entry, error()) for entry in self._queue.clear()])

    # Workload: called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        if not self._queue.rows or self._running >= self.instance_group.max_concurrent_batches:
            return None
        if self._replacement.is_paused or self._must_wait_for_cores():
            return None
        # While a batch keeps the device busy, another one must be efficient.
        table = self._queue.table
        enough = min(table.min_efficient_batch, table.preferred_batch_size) if self._running else 1
        return self._queue.ready_at_ns(enough)

    def take(self, now_ns: int, budget_ns: float | None) -> TensorJob | None:
        idle_lanes = self.device.idle_lanes()
        batch = self._queue.take(now_ns, self._share(idle_lanes), budget_ns)
        if batch.expired:
            late: Outcomes = [(entry, self._queue.lateness(entry, now_ns)) for entry in batch.expired]
            self._loop.call_soon_threadsafe(deliver, late)
        if not batch.entries:
            return None
        # A picture that is being decoded needs a core, and will be queued soon.
        coming = self._queue.rows + self._queue.reserved_rows
        is_alone = idle_lanes == self.device.lanes and not coming
        # A comparison leaves the other lanes to requests, which may come at any time.
        is_alone = is_alone and batch.entries[0].caller != COMPARISON
        job = self._job_type(batch, self.instance_group.pick(batch.size, is_alone=is_alone), self._context)
        self._running += 1
        if job.has_all_cores:
            self._all_cores_until_ns = now_ns + int(job.cost_ns)
        return job

    def _share(self, idle_lanes: int) -> int:
        """Return the most rows for one lane: the queue is divided among the lanes that could start now."""
        rows, table, at_once = self._queue.rows, self._queue.table, self.instance_group.max_concurrent_batches
        if rows == 1:
            return 1
        free = min(idle_lanes, at_once - self._running)
        share = max(-(-rows // free), table.min_efficient_batch)
        if rows >= table.largest:
            return share
        # In a long queue rows wait anyway, and fewer batches leave more processor time to other work.
        return min(share, max(table.preferred_batch_size, rows // (_LONG_QUEUE * at_once)))

    def _must_wait_for_cores(self) -> bool:
        """Whether a batch on all cores ends sooner than a batch beside it, slowing both down, would pay."""
        if self._all_cores_until_ns is None:
            return False
        return self._all_cores_until_ns - self.device.clock() <= self._queue.shortest_ns()

    def _finished(self, job: TensorJob) -> None:
        """Take a job's results; on its lane, with the lock held."""
        self._ended(job)
        if job.lane_ns is not None:
            # Threads on the other cores work as long as the lane's own.
            self.comparison_processor_ns += job.lane_ns * (self.device.lanes if job.has_all_cores else 1)
        for size, ns in job.times:
            job.pool.table.record(size, ns)
        if job.was_interrupted:
            self._replacement.interrupted()
        if job.lacks_memory:
            self._replacement.lacks_memory(job.pool)
        caller = job.entries[0].caller
        self._loop.call_soon_threadsafe(job.deliver, self._stats_of(caller), self._watch_of(caller))

    def _gave_up(self, job: TensorJob) -> None:
        """Fail the requests of a job whose run does not end, and replace its session; with the lock held."""
        self._ended(job)
        hung: Outcomes = [(entry, InferenceHung()) for entry in job.entries]
        self._loop.call_soon_threadsafe(deliver, hung)
        self._replacement.abandoned(job.pool)

    def _ended(self, job: TensorJob) -> None:
        self._running -= 1
        if job.has_all_cores:
            self._all_cores_until_ns = None
