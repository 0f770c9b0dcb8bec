"""What SIGTERM and SIGINT do from the program's first line to its last, and how it ends where threads do not."""

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

_STOP = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
    """Have both signals end the program at once, well: for as long as nothing serves that would have to be drained.

    As process 1 of a container it would ignore them, and on Ctrl-C print where it was.
    """
    for number in _STOP:
        signal.signal(number, lambda *_: leave(0))


class StopSignals:
    """Both signals, on the running event loop: `first` asks to drain, `second` not to wait any longer."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def leave(status: int) -> NoReturn:
    """End the program without waiting for threads that nothing can end.

    A thread inside ONNX Runtime or a codec would be run over by the interpreter's orderly end.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
