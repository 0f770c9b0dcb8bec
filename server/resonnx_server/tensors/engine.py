"""Batches tensor requests of many callers through one session: classifiers and bare ONNX files.

`submit` runs on the event loop, the jobs (`tensor_jobs.py`) on a device's lanes.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import ModelStats, Timing
from resonnx_server.scheduling.batcher import DEFAULT_PRIORITY, Batcher, Entry
from resonnx_server.scheduling.buffers import BufferPool
from resonnx_server.scheduling.deadline_admission import DeadlineAdmission, Decoding, Objective
from resonnx_server.scheduling.device import Device, Workload
from resonnx_server.scheduling.engine import Engine
from resonnx_server.scheduling.reservation import QueueReservation
from resonnx_server.scheduling.session_pool import TensorInstanceGroup, Tensors, TensorSessionPool
from resonnx_server.tensors.jobs import Outcomes, TensorJob, TensorTask, deliver, fail, joined

# Batches of each instance, at most, that a queue is worked off in.
_LONG_QUEUE: Final = 2


class TensorEngine(Engine[int, Tensors, tuple[Tensors, Timing]], Workload):
    """One model's tensor work.

    Args:
        runners: The sessions and their costs.
        device: Where it runs.
        stats: The model's counters.
        max_queue_rows: Rows that may wait.
        max_queue_delay_us: How long the oldest may wait for company.
        objective: What the model should keep, if anything.
        batched: False for a model without a batch axis: each request runs alone.
        finite: A request fails if any of its outputs' values is no finite number. A model of which nothing is known may
            mean its NaN.
    """

    def __init__(
        self,
        runners: TensorInstanceGroup,
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
        batched: bool = True,
        finite: bool = False,
    ) -> None:
        self.runners = runners
        self.device = device
        self.stats = stats
        self.batched = batched
        self.finite = finite
        self.staging: dict[str, BufferPool] = {}
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[TensorTask] = Batcher(
            runners.table,
            max_queue_rows,
            max_queue_delay_us * 1000,
            objective.latency_ns if objective else None,
            runners.max_concurrent_batches,
            runners.latency_session.table,
        )
        self._under_way = 0
        # When a batch on all cores should end, if there is one.
        self._whole_until_ns: int | None = None
        self._admission = DeadlineAdmission(device, objective, runners.tables)
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
        if self._closed:
            raise Unavailable("the model is being closed")
        with self.device.lock:
            self._admission.forget()
            return QueueReservation(
                self._batcher,
                self.device,
                self._admission,
                rows=1 if whole else cost,
                priority=priority,
                own_ns=self._whole_ns(cost) if whole else self._batcher.own_ns(cost),
                ahead_ns=self._batcher.ahead_ns(priority),
                deadline_ns=deadline_ns,
                decoding=decoding,
                # What it changes in the model may take any time.
                teaches=not whole,
            )

    async def run(
        self,
        inputs: Tensors,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        *,
        whole: bool = False,
    ) -> tuple[Tensors, Timing]:
        """Reserve and submit at once, for requests without picture files. See `reserve` and `submit`."""
        with self.reserve(_rows(inputs) if self.batched else 1, deadline_ns, priority, whole=whole) as reservation:
            return await self.submit(inputs, reservation, whole=whole)

    async def submit(
        self, work: Tensors, reservation: QueueReservation, *, whole: bool = False
    ) -> tuple[Tensors, Timing]:
        """Queue one request and return its outputs and timing (see Engine for errors).

        Args:
            work: Arrays [rows, ...] by input name, all with the same rows (any shapes if not batched). Large requests
                are split over several batches.
            reservation: Of these rows.
            whole: Run the request unpadded in a batch of its own, because it feeds optional inputs that have no batch
                axis. Its rows are the first input's; the queue counts one row.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        entry = self._entry(work, reservation, whole)
        with self.device.lock:
            reservation.arrive(entry.rows)
            entry.found_idle = self.device.is_idle and not len(self._batcher)
            self._batcher.push([entry])
            self.device.notify(self.ready_at_ns())
        try:
            return await joined(await entry.payload.future)
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
        return self.runners.table.largest

    def queued(self) -> int:
        return len(self._batcher)

    def queued_rows(self) -> int:
        return self._batcher.rows

    def close(self) -> None:
        self._closed = True
        with self.device.lock:
            self.device.detach(self)
            left = self._batcher.clear()
        for entry in left:
            fail(entry, Unavailable("the model is being closed"))

    # Called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        if self._under_way >= self.runners.max_concurrent_batches:
            return None
        if self._must_let_end():
            return None
        # A batch under way keeps the device busy: one beside it must pay.
        table = self._batcher.table
        return self._batcher.ready_at_ns(
            min(table.min_efficient_batch, table.preferred_batch_size) if self._under_way else 1
        )

    def due_ns(self) -> int:
        due = self._batcher.due_ns()
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        return self._batcher.shortest_ns()

    def objective_ns(self) -> int | None:
        return self._batcher.live_objective_ns(self.device.clock())

    def take(self, now_ns: int, budget_ns: float | None) -> TensorJob | None:
        # What waits is shared out among the lanes that could start now, rather than one taking all.
        free = min(self.device.idle_lanes(), self.runners.max_concurrent_batches - self._under_way)
        rows, table = self._batcher.rows, self._batcher.table
        share = max(-(-rows // free), table.min_efficient_batch)
        if rows < table.largest:
            # The more wait for long anyway, the more counts that fewer batches leave the processor to everything else.
            share = min(
                share, max(table.preferred_batch_size, rows // (_LONG_QUEUE * self.runners.max_concurrent_batches))
            )
        batch = self._batcher.take(now_ns, share, budget_ns)
        if batch.expired:
            late: Outcomes = [(entry, self._batcher.lateness(entry, now_ns)) for entry in batch.expired]
            self.post(lambda: deliver(late))
        if not batch.entries:
            return None
        self._under_way += 1
        # A picture that is being decoded needs a core, and will be here soon.
        coming = self._batcher.rows + self._batcher.expected_rows
        is_alone = self.device.idle_lanes() == self.device.lanes and not coming
        job = TensorJob(self, batch, self.runners.pick(batch.size, is_alone=is_alone))
        if job.runner.has_all_cores:
            self._whole_until_ns = now_ns + int(job.cost_ns)
        return job

    def finished(self, runner: TensorSessionPool) -> None:
        """A job on `runner` ended; from its lane, which looks for the next one itself."""
        with self.device.lock:
            self.device.job_done()
            self._under_way -= 1
            if runner.has_all_cores:
                self._whole_until_ns = None

    def record(self, runner: TensorSessionPool, size: int, ns: int) -> None:
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

    def _whole_ns(self, rows: int) -> float:
        return min(table.time_ns(rows) for table in self.runners.tables)

    def _entry(self, inputs: Tensors, reservation: QueueReservation, whole: bool) -> Entry[TensorTask]:
        shares = self.batched and not whole
        rows = _rows(inputs) if shares else 1
        # An object is like no other: company would be run with this request's own inputs, and this one with padding.
        shape = tuple(array.shape[1:] for array in inputs.values()) if shares else object()
        task = TensorTask(inputs, rows, self._loop.create_future(), _rows(inputs) if whole and self.batched else None)
        return Entry(task, rows, self.device.clock(), reservation.deadline_ns, shape, reservation.priority)


def _rows(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))
