"""Unloads models that are unused for `unload_unused_s`: closes their sessions, which the next request opens again."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from resonnx_server.inference.model import Model, ModelEngine
from resonnx_server.repository.life.off_loop import off_loop
from resonnx_server.repository.life.serving import ModelMemory
from resonnx_server.scheduling.replacement import Event

# Longest and shortest time between two looks, and looks in the time after which a model is unloaded.
_LONGEST_S: Final = 10.0
_SHORTEST_S: Final = 0.02
_LOOKS: Final = 8


class Unused:
    """Tells which models are unused, and unloads them. Event loop only.

    Args:
        models: Those that serve.
        after_s: Seconds after which a model is unloaded that has no setting of its own; 0 for never.
        memory: Is told of models that are unloaded and opened.
    """

    def __init__(self, models: Iterable[Model], after_s: float, memory: ModelMemory) -> None:
        self._models, self._after_s, self._memory = models, after_s, memory
        # Of each model: how often it was used, and when that last changed.
        self._used: dict[ModelEngine, tuple[float, float]] = {}
        # How many openings of each are under way: the graphs of a video classifier are opened one by one.
        self._opening: Counter[ModelEngine] = Counter()
        self._changes: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look at all models, again and again, until cancelled."""
        while True:  # noqa: ASYNC110  # what is unused is known by the time
            await asyncio.sleep(self.look(time.monotonic()))

    def look(self, now_s: float) -> float:
        """Unload what is unused. `now_s` is monotonic. Returns the seconds until the next look."""
        next_s, used = _LONGEST_S, {}
        for model in self._models:
            after_s = self._after_s if model.unload_unused_s is None else model.unload_unused_s
            if not after_s:
                continue
            next_s = min(next_s, max(_SHORTEST_S, after_s / _LOOKS))
            uses = _uses(model)
            before, since_s = self._used.get(model.engine, (uses, now_s))
            if uses != before or model.lease.held:
                since_s = now_s
            elif now_s - since_s >= after_s:
                self._unload(model.engine)
                since_s = now_s
            used[model.engine] = uses, since_s
        self._used = used
        # Models that were freed meanwhile tell nothing any more.
        for engine in [*(self._opening.keys() - {model.engine for model in self._models})]:
            for _ in range(self._opening[engine]):
                self._opened(engine)
        return next_s

    def event(self, engine: ModelEngine, event: Event) -> None:
        """Note what happened to a model's sessions."""
        if event.kind == "reopening":
            self._opening[engine] += 1
            self._memory.models_change()
        elif event.kind in ("reopened", "not_reopened"):
            self._opened(engine)

    def _unload(self, engine: ModelEngine) -> None:
        if held := engine.unload():
            self._memory.models_change()
            self._changed(held)

    def _opened(self, engine: ModelEngine) -> None:
        if self._opening[engine]:
            self._opening[engine] -= 1
            self._changed()
        self._opening += Counter()

    def _changed(self, held: Sequence[object] = ()) -> None:
        """Free what is `held`, and tell the memory, off the loop: both take milliseconds."""
        rest = [*held]

        def free() -> None:
            rest.clear()
            self._memory.models_changed()

        task = asyncio.create_task(off_loop(free))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)


def _uses(model: Model) -> float:
    """Return a number that grows with each request, and with each batch, also of a comparison."""
    return model.stats.success.count + model.stats.failed.count + sum(model.engine.served_ns().values())
