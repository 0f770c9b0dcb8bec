"""Limits of waiting by priority, as Triton's queue policies: how many requests, how long, and what happens then."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from resonnx_server.scheduling.entries import Entry
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY


@dataclass(frozen=True)
class QueuePolicy:
    """The limits of one priority.

    Attributes:
        timeout_ns: Longest wait of a request; 0 is any.
        delays: A request that has waited so long goes behind all that wait in its priority; else it is refused.
        allow_timeout_override: A request may ask for a shorter wait.
        max_requests: Most requests that wait; 0 is any.
    """

    timeout_ns: int = 0
    delays: bool = False
    allow_timeout_override: bool = False
    max_requests: int = 0

    def wait_ns(self, asked_us: int) -> int:
        """Return the longest wait of a request that asks for `asked_us`: it can shorten the timeout only; 0 is any."""
        asked_ns = asked_us * 1000
        return asked_ns if self.allow_timeout_override and 0 < asked_ns < self.timeout_ns else self.timeout_ns


@dataclass(frozen=True)
class QueuePolicies:
    """The policies of a model.

    Attributes:
        levels: Priorities that requests may name, from 1; others, and requests without one, have the default. 0 ignores
            priorities; None for PRIORITY_LEVELS, and others are refused.
        default_priority: That of requests without one.
        default: Of priorities without a policy of their own.
        by_priority: The others.
    """

    levels: int | None = None
    default_priority: int = DEFAULT_PRIORITY
    default: QueuePolicy = QueuePolicy()
    by_priority: dict[int, QueuePolicy] = field(default_factory=dict)

    def of(self, priority: int) -> QueuePolicy:
        """Return the policy of a priority."""
        return self.by_priority.get(priority, self.default)

    def priority(self, asked: int, best: int) -> int:
        """Return the priority of a request.

        Args:
            asked: What it asks for, 0 for nothing.
            best: The most urgent one that its caller may have. One that it asks for itself is not checked.
        """
        if asked > 0 and (self.levels is None or asked <= self.levels):
            return asked
        return max(self.default_priority, best)

    @property
    def have_timeouts(self) -> bool:
        """Whether a request of some priority may not wait as long as it takes."""
        return any(policy.timeout_ns for policy in (self.default, *self.by_priority.values()))


class Timeouts:
    """Entries by the end of their longest wait. Guarded by the queue's lock."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Entry[Any]]] = []
        self._order = count()

    def add(self, entry: Entry[Any]) -> None:
        """Note an entry that has a longest wait."""
        heappush(self._heap, (entry.arrival_ns + entry.max_wait_ns, next(self._order), entry))

    def due(self, now_ns: int, most: int) -> list[Entry[Any]]:
        """Remove and return entries whose longest wait is over, at most `most`; some may not wait any more."""
        found: list[Entry[Any]] = []
        while self._heap and self._heap[0][0] <= now_ns and len(found) < most:
            found.append(heappop(self._heap)[2])
        return found
