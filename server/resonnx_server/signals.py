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
    """Both signals on the running event loop: `first` starts the drain, `second` ends it."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def leave(status: int) -> NoReturn:
    """Exit without waiting for threads: one inside ONNX Runtime or a codec would crash at the interpreter's end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
