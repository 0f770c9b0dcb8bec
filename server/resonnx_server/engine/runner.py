"""A model's sessions with what their batches cost: one that has the device to itself, one that shares it.

Alone, a batch uses every core, so that a single request is answered soonest. Several batches at once, each on its
share of the cores, lose no time at barriers between threads and give most answers a second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resonnx_server.engine.latency import LatencyTable
from resonnx_server.runtime.session import Array

Tensors = dict[str, Array]


@dataclass(frozen=True)
class Runner:
    """A session and its costs."""

    run: Callable[[Mapping[str, Array]], Tensors]
    table: LatencyTable


@dataclass(frozen=True)
class Runners:
    """How a model runs on a device.

    Attributes:
        alone: For a batch beside which nothing runs.
        shared: For `instances` batches at once; its costs were measured so.
        instances: Batches of this model that may run at once.
    """

    alone: Runner
    shared: Runner
    instances: int = 1

    @classmethod
    def single(cls, runner: Runner) -> "Runners":
        """Return runners that run one batch at a time."""
        return cls(runner, runner)
