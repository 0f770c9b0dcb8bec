"""What the stages of a video classifier do together: the engines of its graphs."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from resonnx_server.scheduling.engine import AnyEngine


class Stages:
    """What the registry, the metrics and the life of versions ask of any engine: see inference/model.py."""

    _stages: tuple[AnyEngine, ...]

    @property
    def batch_bytes(self) -> int:
        """See Engine.batch_bytes."""
        return sum(stage.batch_bytes for stage in self._stages)

    @property
    def is_paused(self) -> bool:
        """See Engine.is_paused."""
        return any(stage.is_paused for stage in self._stages)

    @property
    def is_running(self) -> bool:
        """See Engine.is_running."""
        return any(stage.is_running for stage in self._stages)

    @property
    def is_unloaded(self) -> bool:
        """See Engine.is_unloaded; each stage is opened when it is needed."""
        return all(stage.is_unloaded for stage in self._stages)

    def unload(self) -> list[Callable[..., Any]]:
        """See Engine.unload."""
        return [held for stage in self._stages for held in stage.unload()]

    def oldest_wait_ns(self) -> int:
        """See Engine.oldest_wait_ns."""
        return max(stage.oldest_wait_ns() for stage in self._stages)

    def served_ns(self) -> dict[str, float]:
        """See Engine.served_ns."""
        served: defaultdict[str, float] = defaultdict(float)
        for stage in self._stages:
            for caller, ns in stage.served_ns().items():
                served[caller] += ns
        return dict(served)

    def close(self) -> None:
        """See Engine.close."""
        for stage in self._stages:
            stage.close()

    def free(self) -> None:
        """See Engine.free."""
        for stage in self._stages:
            stage.free()
