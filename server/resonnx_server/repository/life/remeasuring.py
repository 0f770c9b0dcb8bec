"""Measures models again whose measurements are doubtful, while no request is under way.

A model is loaded once more beside the one that serves, as for a reload, and measures only what is doubtful. Then it
takes the other's place, which drains by its lease. A request of any model ends the attempt: ONNX Runtime stops between
two nodes of the graph, so that the request is delayed by a node, or by the opening of a session, at most. What was
settled by then is in the cache, and the next attempt goes on from there.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.repository_control import State
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.model_life import ModelLife
from resonnx_server.repository.loading.load import ModelLoad, forget_frames
from resonnx_server.repository.version import Start

_log = logging.getLogger(__name__)

# Interval of looks whether the time has come, while anything is doubtful.
_LOOK_S: Final = 0.5
# Time without a request before an attempt.
_QUIET_S: Final = 10.0
# After an attempt that a request has ended, the next one waits so long, then twice as long, up to the longest.
_FIRST_PAUSE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 600.0
# Measurements after which a model stays as it is: some machines are always disturbed.
_MOST_MEASURED: Final = 3


class Reloader(Protocol):
    """Loads models and lets them serve. Event loop only."""

    @property
    def is_busy(self) -> bool:
        """Whether models are loaded or wait for it, or the server stops."""

    def load_again(self, life: ModelLife, generation: Generation) -> ModelLoad:
        """Begin to load what serves once more, measuring what is doubtful."""

    async def ended(self) -> None:
        """Note that a load has ended, and serves or was dropped."""

    def renew(
        self, life: ModelLife, generation: Generation, load: ModelLoad, start: Start
    ) -> tuple[Generation, Model] | None:
        """Serve what was loaded again in place of what it was, and return it; None if that is not wanted any more."""


@dataclass
class _Doubt:
    life: ModelLife
    due_s: float
    pause_s: float
    measured: int


class Remeasuring:
    """The models whose measurements are doubtful. Event loop only.

    Args:
        models: The registry.
        reloader: Loads again.
        clock: Monotonic seconds.
    """

    def __init__(self, models: Models, reloader: Reloader, clock: Callable[[], float] = time.monotonic) -> None:
        self._models, self._reloader, self._clock = models, reloader, clock
        self._doubts: dict[Generation, _Doubt] = {}
        self._some = asyncio.Event()
        self._under_way: ModelLoad | None = None
        self._last_request_s = clock()

    def note(
        self, life: ModelLife, generation: Generation, model: Model, *, is_doubtful: bool, measured: int = 1
    ) -> None:
        """Note a model that serves from now on, and whether its measurements, the last of `measured`, are doubtful."""
        if is_doubtful:
            self._models.doubtful.add((model.name, model.version))
            if measured < _MOST_MEASURED:
                self._doubts[generation] = _Doubt(life, self._clock() + _QUIET_S, _FIRST_PAUSE_S, measured)
        else:
            self._models.doubtful.discard((model.name, model.version))
        self._watch_requests()

    def give_up(self) -> None:
        """End the attempt under way, if there is one; the next one comes later."""
        # What has ended may serve next, and must not be cancelled.
        if self._under_way is not None and not self._under_way.result.done():
            self._under_way.cancel()

    async def run(self) -> None:
        """Measure again what is doubtful, until cancelled."""
        try:
            while True:
                await self._some.wait()
                await asyncio.sleep(_LOOK_S)
                if (generation := self._next()) is not None:
                    await self._measure(generation)
                    # Here, as the end of this task would keep the frame of `_measure`, with the model.
                    await self._reloader.ended()
        finally:
            self.give_up()

    def _next(self) -> Generation | None:
        """Return what is to be measured now; forget what does not serve any more."""
        for generation in [each for each in self._doubts if each.state is not State.READY]:
            self._forget(generation)
        now_s = self._clock()
        # To load an unloaded model again would take the memory that was wanted back.
        unloaded = {(model.name, model.version) for model in self._models if model.engine.is_unloaded}
        due = [
            generation
            for generation, doubt in self._doubts.items()
            if doubt.due_s <= now_s
            and not doubt.life.is_compared
            and (doubt.life.name, generation.version) not in unloaded
        ]
        is_quiet = now_s - self._last_request_s >= _QUIET_S and not self._reloader.is_busy
        return due[0] if due and is_quiet and not any(self._is_used(model) for model in self._models) else None

    async def _measure(self, generation: Generation) -> None:
        doubt = self._doubts[generation]
        name, version = doubt.life.name, generation.version
        load = self._under_way = self._reloader.load_again(doubt.life, generation)
        try:
            # To await the result itself would end it with this task: its thread is under way until it has ended.
            await asyncio.wait({load.result})
            start = load.result.result()
            # A cancelled load may still end well, but its sessions run no more.
            is_over = load.progress.is_over
            renewed = None if is_over else self._reloader.renew(doubt.life, generation, load, start)
        except asyncio.CancelledError:
            load.cancel()
            raise
        except ModelRefused as error:
            was_ended = load.progress.is_over
            result, level = ("given_up", logging.DEBUG) if was_ended else ("refused", logging.WARNING)
            extra = {"model": name, "version": version, "reason": error.message}
            _log.log(level, "not measured again", extra=extra)
            doubt.measured += not was_ended
            doubt.due_s = self._clock() + doubt.pause_s
            doubt.pause_s = min(2 * doubt.pause_s, _LONGEST_PAUSE_S)
        except Exception as error:
            result = "refused"
            _log.exception("a model could not be measured again", extra={"model": name, "version": version})
            forget_frames(error)
            doubt.measured = _MOST_MEASURED
        else:
            result = "replaced"
            if renewed is None:
                result = "given_up"
                doubt.due_s = self._clock() + doubt.pause_s
            else:
                self._doubts.pop(generation, None)
                is_doubtful = load.progress.is_doubtful
                self.note(doubt.life, *renewed, is_doubtful=is_doubtful, measured=doubt.measured + 1)
        finally:
            self._under_way = None
        if doubt.measured >= _MOST_MEASURED:
            self._forget(generation)
        self._models.remeasured[name, result] += 1
        self._watch_requests()

    def _forget(self, generation: Generation) -> None:
        self._doubts.pop(generation, None)
        self._watch_requests()

    def _watch_requests(self) -> None:
        """Be told of requests while anything is doubtful, and only then."""
        if self._doubts:
            self._some.set()
        else:
            self._some.clear()
        for model in self._models:
            model.lease.on_take = self._came if self._doubts else None

    def _came(self) -> None:
        self._last_request_s = self._clock()
        self.give_up()

    def _is_used(self, model: Model) -> bool:
        # A run may outlast the request that it was for.
        return model.lease.held > 0 or model.engine.is_running
