"""Loads a repository's models one after the other, each on its own thread.

A thread inside ONNX Runtime or a hanging file system cannot be stopped from outside. So a load that takes too long is
refused, cancelled (runtime/cancellation.py) and, if it does not end then, abandoned.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Final, Protocol

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.machine.background import background
from resonnx_server.runtime.machine.host import compute_thread

_log = logging.getLogger(__name__)

# The next load begins when this one has made no progress for so long.
_STALLED_S: Final = 30.0
# Time for a cancelled load to end.
_ENDING_S: Final = 2.0


# Loads a model, or raises ModelRefused.
LoadModel = Callable[[ModelFolder, Progress], Start]


class ModelUnchanged(Exception):
    """A version whose files have other times, and the content that it serves with already."""


class Observer(Protocol):
    """Receives the events of loads, on the event loop; `reached` on any thread."""

    def reached(self, load: "ModelLoad") -> None:
        """A load began a stage."""

    def loaded(self, load: "ModelLoad", start: Start) -> None:
        """A model can serve: `start` makes it."""

    def refused(self, load: "ModelLoad", error: ModelRefused) -> None:
        """A model was refused."""

    def unchanged(self, load: "ModelLoad") -> None:
        """A model serves already, with the same content."""


class ModelLoad:
    """One model's load.

    Args:
        folder: The model.
        number: Its number, from 1.
        of: Number of models.
        load_model: Loads it.
        on_stage: Called at each stage, on any thread.
        beside: Models serve meanwhile, which it must not slow down.
        again: It serves already, and is loaded to be measured again.

    Attributes:
        result: The result or exception of `load_model`.
    """

    def __init__(
        self,
        folder: ModelFolder,
        number: int,
        of: int,
        load_model: LoadModel,
        on_stage: Callable[["ModelLoad"], None] = lambda _: None,
        *,
        beside: bool = False,
        again: bool = False,
    ) -> None:
        self.folder, self.number, self.of = folder, number, of
        self.progress = Progress(lambda _: on_stage(self), is_beside=beside, measures_again=again)
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._load_model = load_model
        self._cancellation = Cancellation()
        self.result: asyncio.Future[Start] = self._loop.create_future()
        self._ended = asyncio.Event()
        # ONNX Runtime's threads inherit its priority. A daemon, so that the process can exit without it.
        self._thread = threading.Thread(target=self._work, name=f"load-{folder.name}", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Time since the load began."""
        return self._loop.time() - self._began_s

    def call_soon(self, work: Callable[..., object], *arguments: object) -> None:
        """Call `work` on the event loop; on any thread."""
        # The loop may be closed.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *arguments)

    def cancel(self) -> None:
        """Make it end as soon as possible."""
        self.progress.is_over = True
        self._cancellation.cancel()

    async def ends_within(self, timeout_s: float) -> bool:
        """Wait for its thread to end. Returns whether it has ended within `timeout_s`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        return self._ended.is_set()

    def idle_s(self) -> float:
        """Return the seconds since its last progress."""
        return self.progress.clock() - self.progress.moved_at_s

    def _work(self) -> None:
        compute_thread()
        start: Start | None = None
        error: Exception | None = None
        try:
            with self._cancellation, background() if self.progress.is_beside else nullcontext():
                start = self._load_model(self.folder, self.progress)
        except ModelRefused as refused:
            # Without its traceback, whose frames hold sessions.
            error = type(refused)(refused.message)
        except ModelUnchanged:
            # Likewise.
            error = ModelUnchanged()
        except Exception as failed:
            error = failed
        self.call_soon(self._end, start, error)
        # Its traceback, if there is one, holds this frame.
        del error

    def _end(self, start: Start | None, error: Exception | None) -> None:
        self._ended.set()
        if self.result.done():
            return
        if start is not None:
            self.result.set_result(start)
        else:
            assert error is not None
            self.result.set_exception(error)
            # Marks it as retrieved, for the case that nobody awaits it any more.
            self.result.exception()


class Loading:
    """The loads of a repository. Event loop only.

    Args:
        load_model: Loads a model.
        observer: Receives the loads' events.
        timeout_s: Time limit for one model's load.
        stalled_s: Without progress for so long, the next model's load begins beside it.
    """

    def __init__(
        self, load_model: LoadModel, observer: Observer, timeout_s: float, stalled_s: float = _STALLED_S
    ) -> None:
        self._load_model, self._observer = load_model, observer
        self._timeout_s, self._stalled_s = timeout_s, stalled_s
        self._under_way: list[ModelLoad] = []

    @property
    def under_way(self) -> Sequence[ModelLoad]:
        """Loads that have not ended, abandoned ones included."""
        return self._under_way

    async def run(self, folders: Sequence[ModelFolder], *, beside: bool = False) -> None:
        """Load all, in this order; return when each serves or is refused. Cancel it to stop loading.

        One after the other: ONNX Runtime uses all cores by itself, and measurements should have them.
        """
        async with asyncio.TaskGroup() as tasks:
            for number, folder in enumerate(folders, 1):
                load = ModelLoad(folder, number, len(folders), self._load_model, self._observer.reached, beside=beside)
                self._under_way.append(load)
                finishing = tasks.create_task(self._finish(load))
                while not finishing.done() and (left_s := self._stalled_s - load.idle_s()) > 0:
                    await asyncio.wait({finishing}, timeout=left_s)

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

    async def _finish(self, load: ModelLoad) -> None:
        """Wait for one load and report its result."""
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                start = await load.result
            self._observer.loaded(load, start)
        except asyncio.CancelledError:
            # At once: serving models drain next, and need the processors.
            load.cancel()
            raise
        except ModelRefused as refused:
            self._observer.refused(load, refused)
            forget_frames(refused)
        except ModelUnchanged as unchanged:
            self._observer.unchanged(load)
            forget_frames(unchanged)
        except Exception as error:
            if limit.expired():
                await self._give_up(load)
                return
            # Other models must still serve.
            _log.exception("a model could not be loaded", extra={"model": load.folder.name})
            forget_frames(error)
            self._observer.refused(load, ModelRefused("could not be loaded; the server's log has the details"))
        self._ended(load)

    def _ended(self, load: ModelLoad) -> None:
        self._under_way.remove(load)
        # It leads back to the load, and garbage is collected rarely.
        load.progress.on_stage = lambda _: None

    async def _give_up(self, load: ModelLoad) -> None:
        load.cancel()
        took = f"its load took longer than {self._timeout_s:g} s (load_timeout_s); it was {load.progress.stage}"
        self._observer.refused(load, ModelRefused(took))
        if await load.ends_within(_ENDING_S):
            self._under_way.remove(load)
        else:
            _log.error(
                "a cancelled load does not end: it is abandoned, and may take processor time from serving models",
                extra={"model": load.folder.name},
            )


def forget_frames(error: Exception) -> None:
    """Let go of what the error's frames hold: sessions, and the load, which holds the error."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
