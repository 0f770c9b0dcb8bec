"""A model's sessions with their latencies: one for a batch that has the device to itself, one for concurrent batches.

A batch on all cores gives a single request the shortest latency. Concurrent batches, each on a share of the cores, lose
no time at barriers between threads and give the highest throughput.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.latency import LatencyTable

Tensors = dict[str, Array]
P = ParamSpec("P")
R = TypeVar("R")


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
        much when other work needs their cores. The correction of a table that no batch updates decays, so that the
        other session is tried again.
        """
        for table in self.tables:
            table.fade()
        latency_ns, throughput_ns = (table.cost_ns(size) for table in self.tables)
        return self.latency_session if is_alone and latency_ns <= throughput_ns else self.throughput_session


TensorSessionPool = SessionPool[[Mapping[str, Array]], Tensors]
TensorInstanceGroup = InstanceGroup[[Mapping[str, Array]], Tensors]
# Of an encoder or a decoder: `run` is Captioner.encode or Captioner.step of runtime/graphs.py.
AnySessionPool = SessionPool[..., Any]
AnyInstanceGroup = InstanceGroup[..., Any]
