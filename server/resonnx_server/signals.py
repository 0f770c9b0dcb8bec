"""SIGTERM and SIGINT from the process's start to its end, and an exit that does not wait for threads."""

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

_STOP = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
    """Make both signals exit at once with status 0, until there is something to drain.

    By default, process 1 of a container would ignore them, and Ctrl-C would print a traceback.
    """
    for number in _STOP:
        signal.signal(number, lambda *_: leave(0))


class StopSignals:
    """Both signals on the running event loop: the first starts the drain, each later one ends its present step.

    Attributes:
        first: Set by the first signal.
        is_hurried: The first signal was SIGINT: somebody at a terminal waits for the end.
    """

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.is_hurried = False
        self._another = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._received, number)

    async def another(self) -> None:
        """Wait for a signal after the first that was not waited for yet."""
        await self._another.wait()
        self._another.clear()

    def _received(self, number: signal.Signals) -> None:
        if self.first.is_set():
            self._another.set()
        else:
            self.is_hurried = number == signal.SIGINT
            self.first.set()


def leave(status: int) -> NoReturn:
    """Exit without waiting for threads: one inside ONNX Runtime or a codec would crash at the interpreter's end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
