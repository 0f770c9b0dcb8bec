"""Loads a repository's models, one after the other, each on a thread of its own, which the event loop never waits for.

A thread inside ONNX Runtime, or at a file system that does not answer, cannot be ended from outside. So a load that
takes too long is refused and, if it does not end when it is told to (runtime/cancellation.py), left behind.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import Model
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.machine.host import compute_thread

_log = logging.getLogger(__name__)

# A load that has done nothing for so long is not waited for by the next one.
_STALLED_S: Final = 30.0
# For a load that is told to end.
_ENDING_S: Final = 2.0


class Loads(Protocol):
    """Loads a model; see Loader.load."""

    def load(self, found: ModelFolder, progress: Progress) -> Start:
        """See Loader.load."""


class Observer(Protocol):
    """Is told how the loads go. The event loop calls; `reached`, any thread."""

    def reached(self, load: "Load") -> None:
        """A load is at another stage."""

    def loaded(self, load: "Load", model: Model) -> None:
        """A model serves from now on."""

    def refused(self, load: "Load", reason: str) -> None:
        """A model does not serve."""


class Load:
    """One model's load.

    Args:
        found: The model.
        number: Which one it is, from 1.
        of: How many there are.
        loader: Loads it.
        on_stage: Called by any thread.

    Attributes:
        result: What `loader` returned or raised.
    """

    def __init__(
        self,
        found: ModelFolder,
        number: int,
        of: int,
        loader: Loads,
        on_stage: Callable[["Load"], None] = lambda _: None,
    ) -> None:
        self.found, self.number, self.of = found, number, of
        self.progress = Progress(lambda _: on_stage(self))
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._loader = loader
        self._cancellation = Cancellation()
        self.result: asyncio.Future[Start] = self._loop.create_future()
        self._ended = asyncio.Event()
        # ONNX Runtime's threads inherit its priority. A daemon, as nothing may wait for it at the program's end.
        self._thread = threading.Thread(target=self._work, name=f"load-{found.name}", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._loop.time() - self._began_s

    def cancel(self) -> None:
        """Have it end as soon as it can."""
        self.progress.is_over = True
        self._cancellation.cancel()

    async def ends_within(self, patience_s: float) -> bool:
        """Wait for its thread to end, at most so long, and tell whether it has."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), patience_s)
        return self._ended.is_set()

    def idle_s(self) -> float:
        """Return for how long it has done nothing."""
        return self.progress.clock() - self.progress.moved_at_s

    def _work(self) -> None:
        compute_thread()
        start, error = None, None
        try:
            with self._cancellation:
                start = self._loader.load(self.found, self.progress)
        except Exception as failed:
            error = failed
        # The loop may be gone.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, start, error)

    def _end(self, start: Start | None, error: Exception | None) -> None:
        self._ended.set()
        if self.result.done():
            return
        if start is not None:
            self.result.set_result(start)
        else:
            assert error is not None
            self.result.set_exception(error)
            # Nobody may be there to take it any more, which is no fault.
            self.result.exception()


@dataclass(frozen=True)
class Limits:
    """How long loads may take, seconds.

    Attributes:
        load_s: One model's, in all.
        stalled_s: Nothing is done for so long, and the next model's load begins beside it.
    """

    load_s: float
    stalled_s: float = _STALLED_S


class Loading:
    """The loads of a repository. Owned by the event loop.

    Args:
        loader: Loads each.
        observer: Is told.
        limits: For each.
    """

    def __init__(self, loader: Loads, observer: Observer, limits: Limits) -> None:
        self._loader, self._observer, self._limits = loader, observer, limits
        self._under_way: list[Load] = []

    @property
    def under_way(self) -> Sequence[Load]:
        """Loads that have not ended, those that are left behind among them."""
        return self._under_way

    async def run(self, found: Sequence[ModelFolder]) -> None:
        """Load all, in this order; return when each serves or is refused. Cancel it to load no more.

        One after the other, as ONNX Runtime uses all cores by itself and what is measured should have them.
        """
        async with asyncio.TaskGroup() as tasks:
            for number, item in enumerate(found, 1):
                load = Load(item, number, len(found), self._loader, self._observer.reached)
                self._under_way.append(load)
                finishing = tasks.create_task(self._finish(load))
                while not finishing.done() and (left_s := self._limits.stalled_s - load.idle_s()) > 0:
                    await asyncio.wait({finishing}, timeout=left_s)

    async def end(self, patience_s: float) -> bool:
        """Have all loads end, wait for them, and tell whether they have."""
        loads = [*self._under_way]
        for load in loads:
            # One that began as `run` was cancelled has not been told.
            load.cancel()
        return all(await asyncio.gather(*(load.ends_within(patience_s) for load in loads)))

    async def _finish(self, load: Load) -> None:
        """Wait for one load and do what follows from it."""
        try:
            async with asyncio.timeout(self._limits.load_s) as limit:
                start = await load.result
            self._observer.loaded(load, start())
        except asyncio.CancelledError:
            # At once: what serves is drained next, and needs the processors.
            load.cancel()
            raise
        except ModelRefused as refused:
            self._observer.refused(load, refused.message)
        except Exception:
            if limit.expired():
                await self._give_up(load)
                return
            # One model's unforeseen failure must not keep the others from serving.
            _log.exception("a model could not be loaded", extra={"model": load.found.name})
            self._observer.refused(load, "could not be loaded; the server's log has the details")
        self._under_way.remove(load)

    async def _give_up(self, load: Load) -> None:
        limit_s = self._limits.load_s
        load.cancel()
        self._observer.refused(
            load, f"its load took longer than {limit_s:g} s (load_timeout_s); it was {load.progress.stage}"
        )
        if await load.ends_within(_ENDING_S):
            self._under_way.remove(load)
        else:
            _log.error(
                "a load does not end: it is left behind, and may take processor time from what serves",
                extra={"model": load.found.name},
            )
