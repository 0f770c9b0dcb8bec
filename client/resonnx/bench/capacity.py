"""Computes how many replicas of a server a load needs, from the batch times that the server has measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from resonnx._errors import FailedPrecondition
from resonnx._results import ModelInfo
from resonnx.bench.batch_queue import MOST_BUSY, BatchQueue

_P99: Final = 0.99
_MOST_REPLICAS: Final = 100_000
# Relative precision of the highest rate of a replica.
_CLOSE: Final = 0.005


class CannotPlan(FailedPrecondition):
    """The load cannot be planned; the message says why."""


@dataclass(frozen=True)
class Replica:
    """A server as its latency table describes it.

    Args:
        times_s: Seconds that a batch takes, by size.
        instances: Most batches that run at once; `times_s` are those of so many.
        kind: Provider and precision, to be printed.
    """

    times_s: Mapping[int, float]
    instances: int
    kind: str

    @classmethod
    def of(cls, model: ModelInfo) -> "Replica":
        """Return the replica that serves a model.

        Raises:
            CannotPlan: It is a captioner, whose times depend on the lengths of captions, or has no latency table.
        """
        if len(model.sessions) != 1:
            raise CannotPlan(
                f"{model.summary.name} writes captions, whose times depend on their lengths: find the rate of one "
                "server with --search-p99-ms"
            )
        (session,) = model.sessions
        if not session.latencies:
            raise CannotPlan(f"the server has no latency table of {model.summary.name}")
        times_s = {each.batch_size: each.expected_s for each in session.latencies}
        return cls(times_s, session.instances, f"{session.provider}, {session.precision}")

    def p99_s(self, rate: float) -> float:
        """Return the 99th percentile of latency in seconds at a rate of requests a second; infinity if it is too high.

        Each lane is computed as a server of its own with an equal part of the requests, which is slower than one queue.
        """
        return BatchQueue(self.times_s, rate / self.instances).percentile_s(_P99)

    def most_rate(self, p99_s: float) -> float:
        """Return the highest rate at which the 99th percentile is at most `p99_s`; 0 if there is none."""
        low, high = 0.0, self.instances * MOST_BUSY * max(size / seconds for size, seconds in self.times_s.items())
        if self.p99_s(high * _CLOSE) > p99_s:
            return 0.0
        while high - low > _CLOSE * high:
            middle = (low + high) / 2
            if self.p99_s(middle) <= p99_s:
                low = middle
            else:
                high = middle
        return low


@dataclass(frozen=True)
class Capacity:
    """The replicas that a load needs.

    Args:
        replica: One of them.
        rate: Requests a second of the whole load.
        p99_s: Objective for the 99th percentile of latency, in seconds.
    """

    replica: Replica
    rate: float
    p99_s: float

    @cached_property
    def most_rate(self) -> float:
        """The highest rate of one replica within the objective."""
        return self.replica.most_rate(self.p99_s)

    @property
    def replicas(self) -> int:
        """The number of replicas.

        Raises:
            CannotPlan: A request alone takes longer than the objective, or more than 100,000 would be needed.
        """
        if not self.most_rate:
            alone_ms = 1e3 * min(self.replica.times_s.values())
            raise CannotPlan(
                f"no number of replicas keeps p99 within {1e3 * self.p99_s:g} ms: one batch takes {alone_ms:.3g} ms, "
                "and a request may wait for another one; raise --p99, or export with a reduced --precision"
            )
        needed = math.ceil(self.rate / self.most_rate)
        if needed > _MOST_REPLICAS:
            raise CannotPlan(f"{needed} replicas would be needed; {_MOST_REPLICAS} are the limit")
        return needed

    @property
    def expected_p99_s(self) -> float:
        """The 99th percentile of latency in seconds with so many replicas."""
        return self.replica.p99_s(self.rate / self.replicas)
