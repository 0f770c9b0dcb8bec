"""One model's load, on a thread of its own.

A thread inside ONNX Runtime or a hanging file system cannot be stopped from outside. So a load that takes too long is
cancelled (runtime/cancellation.py) and, if it does not end then, abandoned.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.machine.background import background
from resonnx_server.runtime.machine.host import compute_thread

# Loads a model, or raises ModelRefused.
LoadModel = Callable[[ModelFolder, Progress], Start]


class ModelUnchanged(Exception):
    """A version whose files have other times, and the content that it serves with already."""


class ModelLoad:
    """One model's load. Event loop only, except for the methods that name another thread.

    Args:
        folder: The model.
        number: Its number, from 1.
        of: Number of models.
        load_model: Loads it.
        on_stage: Called at each stage, on any thread.
        beside: Models serve meanwhile, which it must not slow down.
        again: It serves already, and is loaded to be measured again.
        ask_alone: Called when it has to measure: it waits until `go_on` is called. None if it need not wait.

    Attributes:
        result: The result or exception of `load_model`.
        works: It does not wait for the cores.
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
        ask_alone: Callable[["ModelLoad"], None] | None = None,
    ) -> None:
        self.folder, self.number, self.of = folder, number, of
        self.progress = Progress(lambda _: on_stage(self), is_beside=beside, measures_again=again)
        if ask_alone is not None:
            self.progress.wait_alone = self._wait_alone
        self._ask_alone = ask_alone
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        # Time spent waiting so far, and since when it waits.
        self._waited_s, self._waits_since_s = 0.0, 0.0
        self._may_go_on = threading.Event()
        self._load_model = load_model
        self._cancellation = Cancellation()
        self.result: asyncio.Future[Start] = self._loop.create_future()
        self.works = asyncio.Event()
        self.works.set()
        self._ended = asyncio.Event()
        # ONNX Runtime's threads inherit its priority. A daemon, so that the process can exit without it.
        self._thread = threading.Thread(target=self._work, name=f"load-{folder.name}", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Time since the load began."""
        return self._loop.time() - self._began_s

    @property
    def worked_s(self) -> float:
        """Time since the load began, without the time that it waited for the cores."""
        until_s = self._loop.time() if self.works.is_set() else self._waits_since_s
        return until_s - self._began_s - self._waited_s

    def idle_s(self) -> float:
        """Return the seconds since its last progress; 0 while it waits for the cores."""
        return self.progress.clock() - self.progress.moved_at_s if self.works.is_set() else 0.0

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

    def wait(self) -> None:
        """Note that it waits for the cores from now on."""
        self._waits_since_s = self._loop.time()
        self.works.clear()

    def go_on(self) -> None:
        """Let it measure."""
        if not self.works.is_set():
            self._waited_s += self._loop.time() - self._waits_since_s
            self.works.set()
        # It stood still, and does not any more.
        self.progress.moved_at_s = self.progress.clock()
        self._may_go_on.set()

    def _wait_alone(self) -> None:
        """Wait to have the cores alone; on its thread. Raises ModelRefused if it is cancelled meanwhile."""
        assert self._ask_alone is not None
        Cancellation.on_cancel(self._may_go_on.set)
        self.call_soon(self._ask_alone, self)
        self._may_go_on.wait()
        Cancellation.check()

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
        # It may have been cancelled while it waited.
        self.works.set()
        if self.result.done():
            return
        if start is not None:
            self.result.set_result(start)
        else:
            assert error is not None
            self.result.set_exception(error)
            # Marks it as retrieved, for the case that nobody awaits it any more.
            self.result.exception()


def forget_frames(error: Exception) -> None:
    """Let go of what the error's frames hold: sessions, and the load, which holds the error."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
