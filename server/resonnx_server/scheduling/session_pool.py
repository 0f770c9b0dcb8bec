"""A model's sessions with their latencies: one for a batch that has the device to itself, one for concurrent batches.

A batch on all cores gives a single request the shortest latency. Concurrent batches, each on a share of the cores, lose
no time at barriers between threads and give the highest throughput.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Generic, ParamSpec, TypeVar

from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.latency import LatencyTable

Tensors = dict[str, Array]
P = ParamSpec("P")
R = TypeVar("R")

# After so many batches on the other session the latency session is tried again, for so many batches in a row. The first
# ones are ignored, as the weights are no longer in the processor's caches.
_TRY_AGAIN: Final = 200
_TRIES: Final = 8
_COLD_TRIES: Final = 2


@dataclass(frozen=True)
class SessionPool(Generic[P, R]):
    """A session and its latencies.

    Attributes:
        run: Runs a batch.
        has_all_cores: Its threads use all cores of the device, which concurrent batches would have to share.
    """

    run: Callable[P, R]
    table: LatencyTable
    has_all_cores: bool = False


@dataclass
class InstanceGroup(Generic[P, R]):
    """The sessions of a model, or of one of its graphs, on a device.

    Attributes:
        latency_session: For a batch that runs alone.
        throughput_session: For `max_concurrent_batches` batches at once; measured so.
        max_concurrent_batches: Batches of this model that may run at once.
    """

    latency_session: SessionPool[P, R]
    throughput_session: SessionPool[P, R]
    max_concurrent_batches: int = 1
    _passed_over: int = 0
    _tried: list[float] = field(default_factory=list)

    @classmethod
    def single(cls, pool: SessionPool[P, R]) -> "InstanceGroup[P, R]":
        """Return a group that runs one batch at a time."""
        return cls(pool, pool)

    @property
    def table(self) -> LatencyTable:
        """Latencies of concurrent batches, by which queues are planned."""
        return self.throughput_session.table

    @property
    def tables(self) -> tuple[LatencyTable, LatencyTable]:
        """Latencies of both sessions."""
        return self.latency_session.table, self.throughput_session.table

    def pick(self, size: int, *, is_alone: bool) -> SessionPool[P, R]:
        """Return the session for a batch of `size`. Call with the device's lock held.

        A batch alone runs on the session that was faster lately: threads that wait for each other slow down twice as
        much when other work needs their cores. The latency session is retried now and then.
        """
        if not is_alone:
            return self.throughput_session
        if self.latency_session.table.cost_ns(size) <= self.throughput_session.table.cost_ns(size):
            self._passed_over = 0
            self._tried.clear()
            return self.latency_session
        self._passed_over += 1
        return self.latency_session if self._is_trying else self.throughput_session

    def record(self, pool: SessionPool[P, R], size: int, ns: int) -> None:
        """Update the latencies with a batch that ran on `pool`. Call with the device's lock held."""
        # Both sessions run on one machine, so any batch confirms its present speed.
        for table in self.tables:
            if table is not pool.table:
                table.holds()
        if pool is not self.latency_session or not self._is_trying:
            pool.table.record(size, ns)
            return
        # At least 1: the clock may be coarse.
        self._tried.append(max(ns, 1) / pool.table.cost_ns(size))
        if len(self._tried) == _TRIES:
            # The table is out of date.
            pool.table.rescale(median(self._tried[_COLD_TRIES:]))
            self._tried.clear()
            self._passed_over = 0

    @property
    def _is_trying(self) -> bool:
        return self._passed_over > _TRY_AGAIN


TensorSessionPool = SessionPool[[Mapping[str, Array]], Tensors]
TensorInstanceGroup = InstanceGroup[[Mapping[str, Array]], Tensors]
# Of an encoder or a decoder: `run` is Captioner.encode or Captioner.step of runtime/graphs.py.
AnySessionPool = SessionPool[..., Any]
AnyInstanceGroup = InstanceGroup[..., Any]
