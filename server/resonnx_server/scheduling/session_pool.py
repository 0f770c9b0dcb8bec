"""A model's sessions with their latencies, and the buffers in which the inputs of their batches are joined.

One session is for a batch that has the device to itself: on all cores it gives a single request the shortest latency.
The other is for concurrent batches, each on a share of the cores: they lose no time at barriers between threads, which
gives the highest throughput.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.latency import LatencyTable

Tensors = dict[str, Array]
# Returns zeros of a shape and dtype, in memory that suits the device.
Allocate = Callable[[tuple[int, ...], np.dtype[Any]], Array]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class SessionPool(Generic[P, R]):
    """A session and its latencies.

    Attributes:
        run: Runs a batch; set anew when the session is replaced.
        has_all_cores: Its threads use all cores of the device, which concurrent batches would have to share.
        open_again: Opens another session of the same file and returns its `run`; takes seconds, may raise anything.
            None keeps `run`.
        let_go: Lets go of what `open_again` holds of the session, which is then freed with `run`; None if it cannot.
    """

    run: Callable[P, R]
    table: LatencyTable
    has_all_cores: bool = False
    open_again: Callable[[], Callable[P, R]] | None = None
    let_go: Callable[[], None] | None = None


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

    @property
    def pools(self) -> tuple[SessionPool[P, R], SessionPool[P, R]]:
        """Both sessions."""
        return self.latency_session, self.throughput_session

    def pick(self, size: int, *, is_alone: bool) -> SessionPool[P, R]:
        """Return the session for a batch of `size`. Call with the device's lock held.

        A batch alone runs on the session that was faster lately: threads that wait for each other slow down twice as
        much when other work needs their cores. The correction of a table that no batch updates decays, so that the
        other session is tried again.
        """
        latency, throughput = self.tables
        latency.fade()
        if throughput is not latency:
            throughput.fade()
        is_latency = is_alone and latency.cost_ns(size) <= throughput.cost_ns(size)
        return self.latency_session if is_latency else self.throughput_session


# `run` takes the inputs by name, and `more` names of outputs if a request needs them: Session.run.
TensorSessionPool = SessionPool[..., Tensors]
TensorInstanceGroup = InstanceGroup[..., Tensors]
# Of an encoder or a decoder: `run` is Captioner.encode or Captioner.step of runtime/graphs.py.
AnySessionPool = SessionPool[..., Any]
AnyInstanceGroup = InstanceGroup[..., Any]


# All pools, for `free_buffers`.
_pools: "weakref.WeakSet[BufferPool]" = weakref.WeakSet()
_pools_lock = threading.Lock()


def free_buffers() -> None:
    """Free the buffers that no batch uses: they keep the memory of the largest batch. Thread-safe."""
    with _pools_lock:
        pools = list(_pools)
    for pool in pools:
        pool.clear()


class BufferPool:
    """Buffers for one input of a model: allocated once, lent to one batch at a time.

    Args:
        largest: Rows of a buffer.
        allocate: Allocates the buffers.
    """

    def __init__(self, largest: int, allocate: Allocate = np.zeros) -> None:
        self._largest = largest
        self._allocate = allocate
        self._free: list[Array] = []
        with _pools_lock:
            _pools.add(self)

    def join(self, parts: Sequence[Array], size: int) -> tuple[Array, Array | None]:
        """Concatenate `parts`, each [rows, ...] of equal dtype and row shape, to an array [size, ...].

        Padding repeats the first row: rows left over from an earlier batch might make the model fail.

        Returns:
            The array, and the buffer to `release` after the run (None if the only part is passed on uncopied).
        """
        first = parts[0]
        if len(parts) == 1 and len(first) == size:
            return np.ascontiguousarray(first), None
        buffer = self._lend(first)
        start = 0
        for part in parts:
            buffer[start : start + len(part)] = part
            start += len(part)
        buffer[start:size] = first[0]
        return buffer[:size], buffer

    def release(self, buffer: Array | None) -> None:
        """Return a buffer to the pool."""
        if buffer is not None:
            self._free.append(buffer)

    def clear(self) -> None:
        """Free the buffers that are not lent."""
        self._free.clear()

    def _lend(self, like: Array) -> Array:
        # Without a check: another lane may take the last buffer in between.
        with suppress(IndexError):
            buffer = self._free.pop()
            if buffer.shape[1:] == like.shape[1:] and buffer.dtype == like.dtype:
                return buffer
        buffer = self._allocate((self._largest, *like.shape[1:]), like.dtype)
        if like.dtype == object:
            buffer.fill(b"")
        return buffer
