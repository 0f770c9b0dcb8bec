"""Lets calls in: charges them to the memory budget, and ends those whose messages do not come."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from resonnx_server.errors import MemorySpent, ServerError, TooSlow
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.rpc.fronts.buffer import CALL_BYTES
from resonnx_server.rpc.fronts.status import Rejected

# Calls are not evicted before: most messages are complete by then.
_LEAST_RECEIVE_S: Final = 0.25
# Part of a caller's calls that are evicted at once.
_EVICTED: Final = 4
_HINT_MS: Final = 1000
# Interval of the check for slow requests.
_CHECK_S: Final = 1.0


class Receiving(Protocol):
    """A call that waits for a message."""

    @property
    def name(self) -> str:
        """Name of its caller."""

    @property
    def is_stream(self) -> bool:
        """Whether it may wait for as long as it likes."""

    def evict(self, refusal: Rejected) -> None:
        """End it, from any thread."""

    def resume(self) -> None:
        """Ask for the next message of a stream, from any thread."""


def _plain(error: ServerError) -> Rejected:
    return Rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message, ())


class Intake:
    """The memory budget as calls see it. Thread-safe.

    Args:
        budget: The budget.
        refuse: Returns the status of an error, and counts it.
        max_receive_s: Time limit for the request of a call that is no stream.

    Attributes:
        receiving: Calls that wait for a message, and since when.
        paused: Streams that wait until the budget has room for their next message, and since when.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        refuse: Callable[[ServerError], Rejected] = _plain,
        max_receive_s: float = math.inf,
    ) -> None:
        self.budget = Budget(1 << 62) if budget is None else budget
        self.refuse = refuse
        self._max_receive_s = max_receive_s
        self._checked_s = 0.0
        self.receiving: dict[Receiving, float] = {}
        self.paused: dict[Receiving, float] = {}

    def charge(self, charge: Charge, nbytes: int = CALL_BYTES) -> None:
        """Charge a new call. Raises Rejected if the budget is spent."""
        try:
            charge.resize(nbytes)
        except ServerError as error:
            raise self.refuse(error) from None

    def await_message(self, call: Receiving) -> None:
        """Note that a call waits for a message from now on."""
        self.receiving[call] = time.monotonic()

    def may_receive(self, call: Receiving) -> bool:
        """Whether the budget has room for the next message of a stream; if not, it is resumed when there is some."""
        if self.budget.has_room(call.name, CALL_BYTES):
            return True
        self.paused[call] = time.monotonic()
        return False

    def forget(self, call: Receiving) -> None:
        """Note that a call waits for no message."""
        self.receiving.pop(call, None)
        self.paused.pop(call, None)

    def tick(self, now_s: float) -> None:
        """Resume streams, and once a second end calls whose messages take too long; called often, on one thread."""
        oldest = now_s - self._max_receive_s
        for call, since in list(self.paused.items()):
            if self.budget.has_room(call.name, CALL_BYTES):
                self.paused.pop(call, None)
                call.resume()
            elif since < oldest:
                self._end(call, MemorySpent("there was no memory for the stream's next message", _HINT_MS))
        if now_s - self._checked_s < _CHECK_S:
            return
        self._checked_s = now_s
        for call, since in list(self.receiving.items()):
            if since < oldest and not call.is_stream:
                self._end(call, TooSlow(f"the request was not complete within {self._max_receive_s:g} s"))

    def evict(self) -> int:
        """End a quarter of the calls of the caller with the most that receive, longest first; return their number."""
        oldest = time.monotonic() - _LEAST_RECEIVE_S
        calls = [(since, call) for call, since in list(self.receiving.items()) if since < oldest]
        if not calls:
            return 0
        ((most, count),) = Counter(call.name for _, call in calls).most_common(1)
        of_caller = sorted((item for item in calls if item[1].name == most), key=_since)
        ended = of_caller[: math.ceil(count / _EVICTED)]
        for _, call in ended:
            self._end(call, MemorySpent("the server's memory is spent, and this message took long", _HINT_MS))
        return len(ended)

    def _end(self, call: Receiving, error: ServerError) -> None:
        self.forget(call)
        call.evict(self.refuse(error))


def _since(item: tuple[float, Any]) -> float:
    return item[0]
