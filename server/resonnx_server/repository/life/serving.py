"""The generations that serve or drain, with their models: each model is freed after its last request and batch."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Protocol

from resonnx_server.inference.registry import Model, Models
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.off_loop import off_loop

_log = logging.getLogger(__name__)

# Interval at which the end of the last batch is looked for: of a request that was cancelled, say.
_LOOK_S: Final = 0.02


class ModelMemory(Protocol):
    """The process's memory, of which models are a part that changes. Thread-safe."""

    def models_change(self) -> None:
        """Models are about to be loaded or freed."""

    def models_changed(self) -> None:
        """They were; takes some milliseconds."""

    def keep_for_batches(self, nbytes: int) -> int:
        """Keep so many bytes for the batches of all models; returns those for which there is no room."""


class Serving:
    """Models by generation. Event loop only.

    Args:
        models: The registry.
        memory: Is told of models that are freed, and of what the batches of all take.
    """

    def __init__(self, models: Models, memory: ModelMemory) -> None:
        self._models = models
        self._memory = memory
        self._by_generation: dict[Generation, Model] = {}
        self._drains: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Model]:
        return iter([*self._by_generation.values()])

    def add(self, generation: Generation, model: Model) -> None:
        """Note the model of a generation that serves."""
        self._by_generation[generation] = model
        if (beyond := self._keep_memory()) > 0:
            _log.warning(
                "memory_budget_bytes keeps less for batches than models may take: raise it, or lower max_batch_size",
                extra={
                    "model": model.name,
                    "version": model.version,
                    "bytes": model.engine.batch_bytes,
                    "bytes_beyond": beyond,
                },
            )

    def begin_drain(self, generation: Generation, drained: Callable[[], None]) -> None:
        """Let a generation answer no more calls, and call `drained` when its memory is free."""
        model = self._by_generation[generation]
        if self._models.serves(model):
            self._models.forget(model.name, model.version)
        _log.info("draining", extra={"model": model.name, "version": model.version, "requests": model.lease.held})
        self._begin(self._drain(generation, drained))

    def stopped(self, generation: Generation) -> None:
        """Free a generation that cannot serve any more."""
        self._begin(self._free(generation))

    async def _drain(self, generation: Generation, drained: Callable[[], None]) -> None:
        model = self._by_generation[generation]
        await model.lease.is_free()
        model.engine.close()
        name, version = model.name, model.version
        del model
        await self._free(generation)
        _log.info("unloaded", extra={"model": name, "version": version})
        drained()

    async def _free(self, generation: Generation) -> None:
        model = self._by_generation[generation]
        while model.engine.is_running:  # noqa: ASYNC110  # it ends on a lane, and rarely runs at all
            await asyncio.sleep(_LOOK_S)
        model.engine.free()
        del self._by_generation[generation]
        # Held by this frame until now.
        del model
        self._memory.models_change()
        await off_loop(self._memory.models_changed)
        self._keep_memory()

    def _keep_memory(self) -> int:
        """Tell the memory what the batches of all models take; returns the bytes for which there is no room."""
        return self._memory.keep_for_batches(sum(model.engine.batch_bytes for model in self))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
