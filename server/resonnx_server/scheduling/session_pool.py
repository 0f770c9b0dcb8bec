"""A model's sessions with what their batches cost: one that has the device to itself, one that shares it.

Alone, a batch uses every core, so that a single request is answered soonest. Several batches at once, each on its
share of the cores, lose no time at barriers between threads and give most answers a second.
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

# How often the runner that is not used is tried, and how many batches in a row: weights that were not used for a while
# are not in the processor's caches, so the first ones tell little.
_TRY_AGAIN: Final = 200
_TRIES: Final = 8
_COLD_TRIES: Final = 2


@dataclass(frozen=True)
class SessionPool(Generic[P, R]):
    """A session and its costs.

    Attributes:
        run: Runs a batch.
        has_all_cores: Of several batches at once, others would have to share cores with this one's.
    """

    run: Callable[P, R]
    table: LatencyTable
    has_all_cores: bool = False


@dataclass
class InstanceGroup(Generic[P, R]):
    """How a model, or one of its graphs, runs on a device.

    Attributes:
        latency_session: For a batch beside which nothing runs.
        throughput_session: For `max_concurrent_batches` batches at once; its costs were measured so.
        max_concurrent_batches: Batches of this model that may run at once.
    """

    latency_session: SessionPool[P, R]
    throughput_session: SessionPool[P, R]
    max_concurrent_batches: int = 1
    _passed_over: int = 0
    _tried: list[float] = field(default_factory=list)

    @classmethod
    def single(cls, runner: SessionPool[P, R]) -> "InstanceGroup[P, R]":
        """Return runners that run one batch at a time."""
        return cls(runner, runner)

    @property
    def table(self) -> LatencyTable:
        """Costs of batches while others run beside them: what queues are planned by."""
        return self.throughput_session.table

    @property
    def tables(self) -> tuple[LatencyTable, LatencyTable]:
        """Return what both cost."""
        return self.latency_session.table, self.throughput_session.table

    def pick(self, size: int, *, is_alone: bool) -> SessionPool[P, R]:
        """Return what a batch of `size` runs on. Call with the device's lock held.

        Threads that work together lose twice as much where anything else wants their cores: so by what both took
        lately, and `alone` is tried now and then where it was slower.
        """
        if not is_alone:
            return self.throughput_session
        if self.latency_session.table.cost_ns(size) <= self.throughput_session.table.cost_ns(size):
            self._passed_over = 0
            self._tried.clear()
            return self.latency_session
        self._passed_over += 1
        return self.latency_session if self._is_trying else self.throughput_session

    def record(self, runner: SessionPool[P, R], size: int, ns: int) -> None:
        """Keep the table of a runner up to date with a batch that it has run. Call with the device's lock held."""
        # One machine runs both: while batches tell how slow it is, neither table falls back on what it was at load.
        for table in self.tables:
            if table is not runner.table:
                table.holds()
        if runner is not self.latency_session or not self._is_trying:
            runner.table.record(size, ns)
            return
        # A coarse clock may see none pass.
        self._tried.append(max(ns, 1) / runner.table.cost_ns(size))
        if len(self._tried) == _TRIES:
            # What was known is of another time.
            runner.table.rescale(median(self._tried[_COLD_TRIES:]))
            self._tried.clear()
            self._passed_over = 0

    @property
    def _is_trying(self) -> bool:
        return self._passed_over > _TRY_AGAIN


TensorSessionPool = SessionPool[[Mapping[str, Array]], Tensors]
TensorInstanceGroup = InstanceGroup[[Mapping[str, Array]], Tensors]
# An encoder's or a decoder's: runtime.graphs.Captioner's `encode` or `step`.
AnySessionPool = SessionPool[..., Any]
AnyInstanceGroup = InstanceGroup[..., Any]
