"""Loads a repository's models: side by side, but one that has to measure has the cores alone (cores.py).

A load that does nothing is passed by the others, and one that takes too long is refused and cancelled.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.loading.cores import Cores
from resonnx_server.repository.loading.load import LoadModel, ModelLoad, ModelUnchanged, forget_frames
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.machine.memory import free_memory

_log = logging.getLogger(__name__)

# Other loads pass one that has made no progress for so long.
_STALLED_S: Final = 30.0
# Time for a cancelled load to end.
_ENDING_S: Final = 2.0
# Loads side by side: Python's part of a load, about a seventh, is one at a time.
_MOST: Final = 8
# Memory that a load takes at its peak, by the size of its files: they, ONNX Runtime's weights, those in blocks of
# channels, the optimised graph, and the weights that its sessions share.
_PEAK: Final = 6


class Observer(Protocol):
    """Receives the events of loads, on the event loop; `reached` on any thread."""

    def reached(self, load: ModelLoad) -> None:
        """A load began a stage."""

    def loaded(self, load: ModelLoad, start: Start) -> None:
        """A model can serve: `start` makes it."""

    def refused(self, load: ModelLoad, error: ModelRefused) -> None:
        """A model was refused."""

    def unchanged(self, load: ModelLoad) -> None:
        """A model serves already, with the same content."""


class Loading:
    """The loads of a repository. Event loop only.

    Args:
        load_model: Loads a model.
        observer: Receives the loads' events.
        timeout_s: Time limit for one model's load, without the time that it waits for the cores.
        stalled_s: Without progress for so long, a load does not hold up others.
        most: Loads side by side at most; None for as many as there are usable cores, but 8.
        free_bytes: Returns the memory that is left to this process.
    """

    def __init__(
        self,
        load_model: LoadModel,
        observer: Observer,
        timeout_s: float,
        stalled_s: float = _STALLED_S,
        most: int | None = None,
        free_bytes: Callable[[], int] = free_memory,
    ) -> None:
        self._load_model, self._observer = load_model, observer
        self._timeout_s, self._stalled_s = timeout_s, stalled_s
        self._most = most or min(_MOST, usable_cores())
        self._free_bytes = free_bytes
        self._under_way: list[ModelLoad] = []

    @property
    def under_way(self) -> Sequence[ModelLoad]:
        """Loads that have not ended, abandoned ones included."""
        return self._under_way

    async def run(self, folders: Sequence[ModelFolder], *, beside: bool = False) -> None:
        """Load all, beginning in this order; return when each serves or is refused. Cancel it to stop loading.

        Those `beside` live traffic one after the other: it needs the cores.
        """
        turns = _Turns(1 if beside else self._most, self._observer)
        passing = asyncio.create_task(self._pass_stalled(turns))
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, folder in enumerate(folders, 1):
                    await turns.until(partial(self._may_begin, turns.cores, folder))
                    load = ModelLoad(
                        folder,
                        number,
                        len(folders),
                        self._load_model,
                        self._observer.reached,
                        beside=beside,
                        ask_alone=turns.ask,
                    )
                    turns.cores.begin(load)
                    self._under_way.append(load)
                    tasks.create_task(self._finish(load, turns))
        finally:
            passing.cancel()

    def begin_again(self, folder: ModelFolder, load_model: LoadModel) -> ModelLoad:
        """Begin a load beside live traffic that is measured again. Only `end` and `under_way` know of it."""
        load = ModelLoad(folder, 1, 1, load_model, beside=True, again=True)
        self._under_way.append(load)
        load.result.add_done_callback(lambda _: self._ended(load))
        return load

    async def end(self, timeout_s: float) -> bool:
        """Cancel all loads. Returns whether they have ended within `timeout_s`."""
        loads = [*self._under_way]
        for load in loads:
            # A load that began while `run` was cancelled is not cancelled yet.
            load.cancel()
        return all(await asyncio.gather(*(load.ends_within(timeout_s) for load in loads)))

    def _may_begin(self, cores: Cores[ModelLoad], folder: ModelFolder) -> bool:
        if not cores.under_way:
            return True
        needed = _PEAK * sum(each.nbytes for each in (folder, *(load.folder for load in cores.under_way)))
        return cores.may_begin and needed <= self._free_bytes()

    async def _pass_stalled(self, turns: "_Turns") -> None:
        """Let other loads pass the stalled ones, until cancelled."""
        while True:
            left_s = self._stalled_s
            for load in turns.cores.working:
                if (of_load_s := self._stalled_s - load.idle_s()) <= 0:
                    turns.leave(load)
                else:
                    left_s = min(left_s, of_load_s)
            await asyncio.sleep(left_s)

    async def _finish(self, load: ModelLoad, turns: "_Turns") -> None:
        """Wait for one load and report its result."""
        measured = None
        try:
            if not await self._is_in_time(load):
                await self._give_up(load)
                return
            self._observer.loaded(load, load.result.result())
            measured = load.progress.is_alone
        except asyncio.CancelledError:
            # At once: serving models drain next, and need the processors.
            load.cancel()
            load.result.cancel()
            raise
        except ModelRefused as refused:
            self._observer.refused(load, refused)
            forget_frames(refused)
        except ModelUnchanged as unchanged:
            self._observer.unchanged(load)
            forget_frames(unchanged)
        except Exception as error:
            # Other models must still serve.
            _log.exception("a model could not be loaded", extra={"model": load.folder.name})
            forget_frames(error)
            self._observer.refused(load, ModelRefused("could not be loaded; the server's log has the details"))
        finally:
            turns.leave(load, measured=measured)
        self._ended(load)

    async def _is_in_time(self, load: ModelLoad) -> bool:
        """Wait for a load's result. Returns whether it came within the time limit."""
        while not load.result.done():
            await load.works.wait()
            if (left_s := self._timeout_s - load.worked_s) <= 0:
                return load.result.done()
            await asyncio.wait({load.result}, timeout=left_s)
        return True

    def _ended(self, load: ModelLoad) -> None:
        self._under_way.remove(load)
        # They lead back to the load, and garbage is collected rarely.
        load.progress.on_stage, load.progress.wait_alone = lambda _: None, lambda: None

    async def _give_up(self, load: ModelLoad) -> None:
        load.cancel()
        load.result.cancel()
        took = f"its load took longer than {self._timeout_s:g} s (load_timeout_s); it was {load.progress.stage}"
        self._observer.refused(load, ModelRefused(took))
        if await load.ends_within(_ENDING_S):
            self._under_way.remove(load)
        else:
            _log.error(
                "a cancelled load does not end: it is abandoned, and may take processor time from serving models",
                extra={"model": load.folder.name},
            )


class _Turns:
    """Carries out what `cores` decides.

    Attributes:
        cores: The loads of one run.
    """

    def __init__(self, most: int, observer: Observer) -> None:
        self.cores: Cores[ModelLoad] = Cores(most)
        self._observer = observer
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, which only changes of loads can meet."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def ask(self, load: ModelLoad) -> None:
        """Let a load measure when no other one works."""
        if load.progress.is_over:
            return
        self.cores.ask(load)
        load.wait()
        self._change()
        if not load.works.is_set():
            # Its thread waits, and writes nothing meanwhile.
            load.progress.stage = "waiting"
            self._observer.reached(load)

    def leave(self, load: ModelLoad, *, measured: bool | None = None) -> None:
        """Let others work; see Cores.end."""
        self.cores.end(load, measured=measured)
        self._change()

    def _change(self) -> None:
        if (alone := self.cores.next_alone()) is not None:
            alone.go_on()
        self._changed.set()
