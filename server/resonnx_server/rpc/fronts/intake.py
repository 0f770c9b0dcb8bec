"""Lets calls in: charges them to the memory budget, and ends those whose messages do not come or are not read."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import grpc

from resonnx_server.errors import MemorySpent, ServerError, SlowReader, TooSlow
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.rpc.fronts.buffer import CALL_BYTES
from resonnx_server.rpc.fronts.status import Rejected

# Calls are not evicted before: most messages are complete by then. 10 Gbit/s bring 125 MB in it.
_LEAST_RECEIVE_S: Final = 0.1
# Part of the calls that are evicted at once.
_EVICTED: Final = 4
# Where memory is spent, answers that are not taken for so long make room for other callers, at most so often.
_UNREAD_S: Final = 10.0
_ROOM_INTERVAL_S: Final = 0.05
_HINT_MS: Final = 1000
# What frames and TLS add to a message at most, 1/32, and a call's headers.
_FRAMES: Final = 5
_HEADERS: Final = 512
# Interval of the check for slow requests.
_CHECK_S: Final = 1.0
# Slow calls that are ended in one check: thousands at once would hold up the others.
_ENDED_AT_ONCE: Final = 16


class Receiving(Protocol):
    """A call that waits for a message."""

    @property
    def name(self) -> str:
        """Name of its caller."""

    @property
    def has_begun(self) -> bool:
        """Whether it is a stream of which a message has come."""

    def peer(self) -> str:
        """Return gRPC's address of its client."""

    def evict(self, refusal: Rejected) -> None:
        """End it, from any thread."""

    def resume(self) -> None:
        """Ask for the next message of a stream, from any thread."""


class Sending(Protocol):
    """A call whose message is sent."""

    @property
    def name(self) -> str:
        """Name of its caller."""

    @property
    def is_stream(self) -> bool:
        """Whether more messages may follow."""

    def cut(self) -> None:
        """End it, from any thread, without waiting for its reader."""


def _plain(error: ServerError) -> Rejected:
    return Rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message, ())


class Intake:
    """The memory budget as calls see it. Thread-safe.

    Args:
        budget: The budget.
        refuse: Returns the status of an error, and counts it.
        max_receive_s: Time limit for the request of a call, for the first message of a stream, and for the reader of a
            unary call's answer.
        max_stream_idle_s: Time limit for further messages of a stream, and for readers of its answers.

    Attributes:
        sending: Calls with a message that is not taken by its reader, and since when.
        receiving: Calls that wait for a message, and since when.
        paused: Streams that wait until the budget has room for their next message, and since when.
        claimed: Bytes of the messages that were handed over, with what frames and headers add at most, by gRPC's
            address of the client.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        refuse: Callable[[ServerError], Rejected] = _plain,
        max_receive_s: float = math.inf,
        max_stream_idle_s: float = math.inf,
    ) -> None:
        self.budget = Budget(1 << 62) if budget is None else budget
        self.refuse = refuse
        self._max_receive_s = max_receive_s
        self._max_stream_idle_s = max_stream_idle_s
        self.sending: dict[Sending, float] = {}
        self._checked_s = self._made_room_s = 0.0
        self.receiving: dict[Receiving, float] = {}
        self.paused: dict[Receiving, float] = {}
        self.claimed: dict[str, int] = {}

    def charge(self, charge: Charge, nbytes: int = CALL_BYTES) -> None:
        """Charge a new call. Raises Rejected if the budget is spent.

        Where its caller holds less than an equal part, the one that holds the most loses calls: a later try finds room.
        """
        try:
            charge.resize(nbytes)
        except ServerError as error:
            if isinstance(error, MemorySpent):
                self._make_room(charge.caller)
            raise self.refuse(error) from None

    def claim(self, peer: str, message: bytes) -> None:
        """Note that gRPC has handed over a message of the client at an address."""
        nbytes = len(message)
        self.claimed[peer] = self.claimed.get(peer, 0) + nbytes + (nbytes >> _FRAMES) + _HEADERS

    def receiving_peers(self) -> set[str]:
        """Return gRPC's addresses of clients whose messages are awaited."""
        return {call.peer() for call in list(self.receiving)}

    def await_message(self, call: Receiving) -> None:
        """Note that a call waits for a message from now on."""
        self.receiving[call] = time.monotonic()

    def may_receive(self, call: Receiving) -> bool:
        """Whether the budget has room for the next message of a stream; if not, it is resumed when there is some."""
        if self.budget.has_room(call.name, CALL_BYTES):
            return True
        self.paused[call] = time.monotonic()
        return False

    def await_reader(self, call: Sending) -> None:
        """Note that a message of a call is sent from now on."""
        self.sending[call] = time.monotonic()

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
        late = self._late(now_s)
        for call, error in itertools.islice(late, _ENDED_AT_ONCE):
            self._end(call, error)
        if next(late, None) is None:
            self._checked_s = now_s
            self._cut(now_s)

    def _late(self, now_s: float) -> Iterator[tuple[Receiving, ServerError]]:
        """Yield calls whose messages take too long, with the error that ends them."""
        most_s, most_idle_s = self._max_receive_s, self._max_stream_idle_s
        for call, since in list(self.receiving.items()):
            if not call.has_begun and since < now_s - most_s:
                yield call, TooSlow(f"the request was not complete within {most_s:g} s")
            elif since < now_s - most_idle_s:
                yield call, TooSlow(f"the stream brought no message for {most_idle_s:g} s (max_stream_idle_s)")

    def _cut(self, now_s: float) -> None:
        """End calls of readers that take nothing."""
        unary, stream = (self._max_receive_s, "max_receive_s"), (self._max_stream_idle_s, "max_stream_idle_s")
        for call, since in list(self.sending.items()):
            most_s, setting = stream if call.is_stream else unary
            if since < now_s - most_s and self.sending.pop(call, None) is not None:
                self.refuse(SlowReader(f"an answer was not read for {most_s:g} s ({setting})"))
                call.cut()

    def evict(self) -> int:
        """End a quarter of the calls that receive, of the callers with the most, longest first; return their number."""
        oldest = time.monotonic() - _LEAST_RECEIVE_S
        calls = [(since, call) for call, since in list(self.receiving.items()) if since < oldest]
        left = Counter(call.name for _, call in calls)
        ranked = []
        # Ending a caller's oldest call leaves it one less: its next call ranks behind other callers' with as many.
        for since, call in sorted(calls, key=_since):
            ranked.append((-left[call.name], since, call))
            left[call.name] -= 1
        ranked.sort(key=lambda item: item[:2])
        ended = ranked[: math.ceil(len(ranked) / _EVICTED)]
        for _, _, call in ended:
            self._end(call, MemorySpent("the server's memory is spent, and this message took long", _HINT_MS))
        return len(ended)

    def _evict_of(self, caller: str, calls: list[tuple[float, Receiving]]) -> None:
        """End a quarter of a caller's among `calls` that receive, longest first."""
        of_caller = sorted((item for item in calls if item[1].name == caller), key=_since)
        for _, call in of_caller[: math.ceil(len(of_caller) / _EVICTED)]:
            self._end(call, MemorySpent("the server's memory is spent, and this message took long", _HINT_MS))

    def _make_room(self, caller: str) -> None:
        """End calls of the caller with the most memory that wait for its messages or its reading, if another has less.

        Args:
            caller: The other, who was refused.
        """
        now = time.monotonic()
        if now - self._made_room_s < _ROOM_INTERVAL_S or (largest := self.budget.largest_before(caller)) is None:
            return
        self._made_room_s = now
        begun = now - _LEAST_RECEIVE_S
        self._evict_of(largest, [(since, call) for call, since in list(self.receiving.items()) if since < begun])
        unread = [
            (since, call)
            for call, since in list(self.sending.items())
            if since < now - _UNREAD_S and call.name == largest
        ]
        for _, sending in sorted(unread, key=_since)[: math.ceil(len(unread) / _EVICTED)]:
            if self.sending.pop(sending, None) is not None:
                self.refuse(SlowReader(f"an answer was not read for {_UNREAD_S:g} s, and the server's memory is spent"))
                sending.cut()

    def _end(self, call: Receiving, error: ServerError) -> None:
        self.forget(call)
        call.evict(self.refuse(error))


def _since(item: tuple[float, Any]) -> float:
    return item[0]
