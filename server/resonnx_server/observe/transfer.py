"""Times at which a traced call was received and answered: noted by gRPC's front and by HTTP, written to traces."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

# Begin and end, monotonic, in ns.
Times = tuple[int, int]


class Transfer:
    """The receiving and the sending of one call. Event loop only, but for `received`."""

    __slots__ = ("_begun_ns", "_is_over", "_received_ns", "_sending_ns", "_sent", "_writers")

    def __init__(self) -> None:
        self._begun_ns = self._received_ns = time.monotonic_ns()
        self._sending_ns = 0
        self._sent: Times | None = None
        self._is_over = False
        self._writers: list[Callable[[Times, Times | None], None]] = []

    def received(self) -> None:
        """Note that the message is complete."""
        self._received_ns = time.monotonic_ns()

    def sending(self) -> None:
        """Note that the answer is sent from now on."""
        self._sending_ns = time.monotonic_ns()

    def over(self, sent_ns: int | None) -> None:
        """Note that the call is over.

        Args:
            sent_ns: When its answer was sent, monotonic; None if it was not.
        """
        self._is_over = True
        self._sent = None if sent_ns is None else (self._sending_ns, sent_ns)
        for write in self._writers:
            write((self._begun_ns, self._received_ns), self._sent)
        self._writers.clear()

    def tell(self, write: Callable[[Times, Times | None], None]) -> None:
        """Call `write` when the call is over, with the times of receiving and, unless it was not sent, of sending."""
        self._writers.append(write)
        if self._is_over:
            self.over(None if self._sent is None else self._sent[1])


# The transfer of the call that the current task serves; None if its times are not noted.
TRANSFER: Final[ContextVar[Transfer | None]] = ContextVar("TRANSFER", default=None)
