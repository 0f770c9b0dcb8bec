"""Shows the progress of a run."""

import asyncio
from contextlib import suppress
from typing import Final

from resonnx.bench.load import Plan
from resonnx.bench.session import Watch
from resonnx.bench.summary import Tally

_REDRAW_S: Final = 0.25


class Progress:
    """A line on stderr that is redrawn during a run, if stderr is a terminal."""

    def __init__(self) -> None:
        # Imported here, as it is slow and other commands do not need it.
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        self._status = Status("connecting", console=console) if console.is_terminal else None
        self._redrawing: asyncio.Task[None] | None = None

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._redrawing:
            self._redrawing.cancel()
        if self._status:
            self._status.stop()

    @property
    def watch(self) -> Watch:
        """Return the callback for a session's runs."""
        return self._begin

    def _begin(self, name: str, plan: Plan, tally: Tally) -> None:
        if self._redrawing:
            self._redrawing.cancel()
        if self._status:
            self._redrawing = asyncio.create_task(self._redraw(name, plan, tally))

    async def _redraw(self, name: str, plan: Plan, tally: Tally) -> None:
        assert self._status is not None
        loop = asyncio.get_running_loop()
        begin = loop.time() + plan.warmup_s
        with suppress(asyncio.CancelledError):
            while True:
                passed = loop.time() - begin
                if passed <= 0:
                    line = f"{name}: warming up"
                else:
                    rate = len(tally.ok_s) / min(passed, plan.seconds)
                    failed = tally.codes.total() - len(tally.ok_s)
                    line = f"{name}: {min(passed, plan.seconds):.0f} of {plan.seconds:g} s, {rate:.1f}/s"
                    line += f", {failed} without an answer in time" if failed else ""
                self._status.update(line)
                await asyncio.sleep(_REDRAW_S)
