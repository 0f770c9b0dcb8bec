"""The limits of callers: requests a second, and requests at a time. Event loop only."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from resonnx_server.access.caller import Caller
from resonnx_server.errors import RateLimited
from resonnx_server.pace import Paces

# A second's requests may come at once, and at least one.
_LEAST_BURST: Final = 1.0
# Retry hint where too many requests are in progress.
_RETRY_AFTER_NS: Final = 100_000_000


class InProgress:
    """A counted request, until its block ends."""

    __slots__ = ("_limits", "_name")

    def __init__(self, limits: "Limits", name: str) -> None:
        self._limits, self._name = limits, name

    def __enter__(self) -> None:
        """Nothing: it is counted already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.end(self._name)


class Limits:
    """Counts the requests of callers that have limits.

    A rate is a token bucket: a second's requests may come at once, then one after each 1/rate s.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._in_progress: dict[str, int] = {}
        self._paces = Paces[str]()

    def begin(self, caller: Caller) -> InProgress:
        """Count a request of `caller` as in progress until the block of the returned context ends.

        Raises:
            RateLimited: The caller sends more than its rate, or has too many requests in progress.
        """
        name, in_progress = caller.name, self._in_progress.get(caller.name, 0)
        if caller.max_concurrent is not None and in_progress >= caller.max_concurrent:
            message = f"{in_progress} requests of this key are in progress, its limit; wait for an answer"
            raise RateLimited.for_ns(message, _RETRY_AFTER_NS)
        if caller.rate_per_s is not None:
            self._take(name, caller.rate_per_s)
        self._in_progress[name] = in_progress + 1
        return InProgress(self, name)

    def end(self, name: str) -> None:
        """Count a request as in progress no longer."""
        if left := self._in_progress[name] - 1:
            self._in_progress[name] = left
        else:
            del self._in_progress[name]

    def _take(self, name: str, rate: float) -> None:
        """Count a request of a caller with a rate. Raises RateLimited if it would have to wait."""
        pace = self._paces.of(name, rate, max(_LEAST_BURST, rate))
        if wait_ns := pace.delay_ns(self._clock(), most_ns=0):
            message = f"this key may send {rate:g} requests a second; the next in {wait_ns / 1e9:.3g} s"
            raise RateLimited.for_ns(message, wait_ns)
