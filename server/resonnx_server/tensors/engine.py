"""Batches tensor requests of many callers through one session: classifiers and bare ONNX files.

Requests are reserved and submitted on the event loop; the device takes jobs (jobs.py) for its lanes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Hashable
from functools import partial
from typing import Final

from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import ModelStats, Timing
from resonnx_server.scheduling.batcher import DEFAULT_PRIORITY, Batcher, Entry, QueueReservation
from resonnx_server.scheduling.buffers import BufferPool
from resonnx_server.scheduling.deadline_admission import Decoding, Objective
from resonnx_server.scheduling.device import Device, Workload
from resonnx_server.scheduling.engine import Engine
from resonnx_server.scheduling.session_pool import TensorInstanceGroup, Tensors
from resonnx_server.tensors.jobs import JobContext, Outcomes, TensorJob, TensorTask, deliver, joined

# A queue of this many batches per concurrent batch is long.
_LONG_QUEUE: Final = 2


class TensorEngine(Engine[int, Tensors, tuple[Tensors, Timing]], Workload):
    """One model's tensor work; a request's cost is its number of rows.

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
    """

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
    ) -> None:
        self.instance_group, self.device, self.stats = instance_group, device, stats
        self._batched = batched
        self._batcher: Batcher[TensorTask] = Batcher(
            device, instance_group, max_queue_rows, max_queue_delay_us * 1000, objective
        )
        buffers: defaultdict[str, BufferPool] = defaultdict(
            partial(BufferPool, instance_group.table.largest, device.allocate)
        )
        self._context = JobContext(device.clock, buffers, batched, finite, self._finished)
        self._loop = asyncio.get_running_loop()
        self._running = 0
        # Expected end of a batch that uses all cores, if one is running.
        self._all_cores_until_ns: int | None = None
        self._closed = False
        device.attach(self)

    def reserve(
        self,
        cost: int,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
        *,
        whole: bool = False,
    ) -> QueueReservation:
        """Reserve room for `cost` rows (see Engine); `whole` as for `submit`."""
        self._check_open()
        with self.device.lock:
            if not whole:
                return self._batcher.reserve(cost, deadline_ns, priority, decoding)

            def predict() -> tuple[float, float]:
                own_ns = min(table.time_ns(cost) for table in self.instance_group.tables)
                return own_ns, self._batcher.ahead_ns(priority)

            # The inputs that it overrides may make the model slow, so its time says nothing about other requests.
            return self._batcher.reserve(1, deadline_ns, priority, decoding, predict, learns=False)

    async def run(
        self,
        inputs: Tensors,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        *,
        whole: bool = False,
    ) -> tuple[Tensors, Timing]:
        """Reserve and submit at once, for requests without picture files."""
        with self.reserve(self._rows(inputs), deadline_ns, priority, whole=whole) as reservation:
            return await self.submit(inputs, reservation, whole=whole)

    async def submit(
        self, work: Tensors, reservation: QueueReservation, *, whole: bool = False
    ) -> tuple[Tensors, Timing]:
        """Queue one request and return its outputs and timing (for errors see Engine).

        Args:
            work: Arrays [rows, ...] by input name, all with the same rows (any shapes if not batched). Large requests
                are split over several batches.
            reservation: Of these rows.
            whole: Run the request unpadded in a batch of its own, as it feeds optional inputs without a batch axis. Its
                rows are the first input's; the queue counts one row.
        """
        self._check_open()
        rows = self._rows(work)
        whole_rows = rows if whole and self._batched else None
        shape: Hashable = tuple(array.shape[1:] for array in work.values())
        if whole or not self._batched:
            # Unequal to any other shape, so that the request shares no batch.
            shape, rows = object(), 1
        task = TensorTask(work, rows, self._loop.create_future(), whole_rows)
        entry = Entry(task, rows, self.device.clock(), reservation.deadline_ns, shape, reservation.priority)
        with self.device.lock:
            self._batcher.push(entry, reservation)
            self.device.notify(self.ready_at_ns())
        try:
            return await joined(await task.future)
        except BaseException:
            # The caller has gone, or some rows have failed: the others are not needed.
            with self.device.lock:
                self._batcher.discard(entry)
            raise
        finally:
            # They hold the error, which holds this frame: inputs would live until garbage is collected.
            del task, entry

    def queued(self) -> int:
        return len(self._batcher)

    def queued_rows(self) -> int:
        return self._batcher.rows

    def close(self) -> None:
        self._closed = True
        with self.device.lock:
            self.device.detach(self)
            left = self._batcher.clear()
        deliver([(entry, Unavailable("the model is being closed")) for entry in left])

    # Workload: called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        if not self._batcher.rows or self._running >= self.instance_group.max_concurrent_batches:
            return None
        if self._must_wait_for_cores():
            return None
        # While a batch keeps the device busy, another one must be efficient.
        table = self._batcher.table
        enough = min(table.min_efficient_batch, table.preferred_batch_size) if self._running else 1
        return self._batcher.ready_at_ns(enough)

    def due_ns(self) -> int:
        due = self._batcher.due_ns()
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        return self._batcher.shortest_ns()

    def objective_ns(self) -> int | None:
        return self._batcher.live_objective_ns()

    def take(self, now_ns: int, budget_ns: float | None) -> TensorJob | None:
        idle_lanes = self.device.idle_lanes()
        batch = self._batcher.take(now_ns, self._share(idle_lanes), budget_ns)
        if batch.expired:
            late: Outcomes = [(entry, self._batcher.lateness(entry, now_ns)) for entry in batch.expired]
            self._loop.call_soon_threadsafe(deliver, late)
        if not batch.entries:
            return None
        # A picture that is being decoded needs a core, and will be queued soon.
        coming = self._batcher.rows + self._batcher.reserved_rows
        is_alone = idle_lanes == self.device.lanes and not coming
        job = TensorJob(batch, self.instance_group.pick(batch.size, is_alone=is_alone), self._context)
        self._running += 1
        if job.has_all_cores:
            self._all_cores_until_ns = now_ns + int(job.cost_ns)
        return job

    def _share(self, idle_lanes: int) -> int:
        """Return the most rows for one lane: the queue is divided among the lanes that could start now."""
        rows, table, at_once = self._batcher.rows, self._batcher.table, self.instance_group.max_concurrent_batches
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
        return self._all_cores_until_ns - self.device.clock() <= self._batcher.shortest_ns()

    def _finished(self, job: TensorJob) -> None:
        """Take a job's results; on its lane."""
        with self.device.lock:
            self.device.job_done()
            self._running -= 1
            if job.has_all_cores:
                self._all_cores_until_ns = None
            for size, ns in job.times:
                job.pool.table.record(size, ns)
        self._loop.call_soon_threadsafe(job.deliver, self.stats)

    def _rows(self, inputs: Tensors) -> int:
        return len(next(iter(inputs.values()))) if self._batched else 1

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the model is being closed")
