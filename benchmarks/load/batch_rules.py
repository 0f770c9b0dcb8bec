"""The server's engine with other rules for a batch beside a running one, for the simulation (batch_policies.py)."""

from collections.abc import Callable
from typing import Any, Final

from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine
from resonnx_server.tensors.jobs import TensorJob

# Others are expected if lately more than so many times a batch's rows were there at once; that decays with each batch.
_OF_ALL: Final = 1.3
_PRESENT_DECAY: Final = 0.9


class SimulatedEngine(TensorEngine):
    """An engine with another rule for batches beside a running one.

    Attributes:
        rule: The rows that such a batch needs; None for the server's own rule. With a rule, a batch gets all cores
            only if no other rows are expected while it runs.
        running_rows: Rows of the running batches.
    """

    rule: "Rule | None" = None
    running_rows: int = 0
    # Rows that waited or ran at once lately.
    _present_rows = 0.0

    @property
    def running(self) -> int:
        """Running batches."""
        return self._running

    def ready_at_ns(self) -> int | None:
        """Return when a batch may begin (see Workload), by the rule."""
        at = super().ready_at_ns()
        if at is None or self.rule is None or not self._running:
            return at
        table = self._queue.table
        return self._queue.ready_at_ns(self.rule(self, min(table.min_efficient_batch, table.preferred_batch_size)))

    def take(self, now_ns: int, budget_ns: float | None) -> TensorJob | None:
        """Take a batch (see Workload), and note the rows that are there at once."""
        present = self._queue.rows + self.running_rows
        self._present_rows = max(present, _PRESENT_DECAY * self._present_rows)
        job = super().take(now_ns, budget_ns)
        self.running_rows += rows_of(job) if job else 0
        return job

    def expects_others(self, size: int) -> bool:
        """Whether callers that were just answered will come back while a batch of `size` rows runs."""
        return self.rule is not None and self._present_rows > _OF_ALL * size

    def _ended(self, job: TensorJob) -> None:
        super()._ended(job)
        self.running_rows -= rows_of(job)


class SimulatedGroup(InstanceGroup[..., Any]):
    """Sessions; a batch of an engine that expects other rows does not get the one on all cores.

    Attributes:
        engine: Whose sessions they are.
    """

    engine: SimulatedEngine

    def pick(self, size: int, *, is_alone: bool) -> SessionPool[..., Any]:
        """Return the session for a batch of `size`."""
        return super().pick(size, is_alone=is_alone and not self.engine.expects_others(size))


def rows_of(job: TensorJob) -> int:
    """Return the rows of a batch without padding."""
    return sum(entry.rows for entry in job.entries)


def _like_others(engine: SimulatedEngine, efficient: int) -> int:
    return min(efficient, -(-engine.running_rows // engine.running))


# Returns the rows that a batch needs beside a running one, given those that make it efficient.
Rule = Callable[[SimulatedEngine, int], int]


RULES: Final[dict[str, Rule | None]] = {
    "server": None,
    "efficient": lambda _, efficient: efficient,
    "any": lambda _, efficient: 1,
    "2": lambda _, efficient: min(2, efficient),
    "4": lambda _, efficient: min(4, efficient),
    "like-others": _like_others,
}
