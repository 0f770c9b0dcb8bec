"""Shares a server between callers: who is served next, and what precedes a new request.

Start-time fair queueing: each caller of a priority has a virtual time, which grows by the cost of what it is served.
The waiting caller with the least is next. Between two callers that both wait all the time, the cost served differs by
the largest single cost of each at most.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Whose turn it is: a priority and a caller.
Turn = tuple[int, str]

# Priority levels as Triton counts them: 1 is the most urgent. A request that names none gets the middle.
PRIORITY_LEVELS: Final = 8
DEFAULT_PRIORITY: Final = 4
# The caller of work that nobody asked for: copies of requests, run to compare versions. It is counted apart.
COMPARISON: Final = "comparison"
# Callers without waiting work that are looked at for each one that becomes such.
_FORGOTTEN_AT_ONCE: Final = 2
# The label of callers without a name, prefixes of those that have one, and most labels.
_OTHER: Final = "other"
_NAMED: Final = ("key:", "cert:", COMPARISON)
_MOST_LABELS: Final = 256
# Entries of callers that have left, beyond which a heap is put in order.
_MOST_STALE: Final = 64


class Served:
    """Expected device ns that batches gave to callers: to each with a key or a TLS client's name, and to all others.

    Addresses are no labels of metrics, as anybody can come from many.
    """

    __slots__ = ("ns",)

    def __init__(self) -> None:
        self.ns: dict[str, float] = {_OTHER: 0.0}

    def add(self, caller: str, ns: float) -> None:
        """Count device time for a caller."""
        name = caller if caller in self.ns or self._is_new_label(caller) else _OTHER
        self.ns[name] = self.ns.get(name, 0.0) + ns

    def _is_new_label(self, caller: str) -> bool:
        return caller.startswith(_NAMED) and len(self.ns) < _MOST_LABELS


class Shares:
    """The virtual times of the callers of one priority.

    A caller that begins to wait starts at the present virtual time, so that no caller saves up a right to be served
    while it has no work; or at its own, if it has been served more than that.
    """

    __slots__ = ("_ahead", "_served", "_waiting", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._served: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        # Callers without waiting work, in the order in which they ceased to wait. They are forgotten once `now` is past
        # their time.
        self._ahead: OrderedDict[str, None] = OrderedDict()

    def begin(self, caller: str) -> None:
        """Note that an item of `caller` begins to wait."""
        if waiting := self._waiting.get(caller):
            self._waiting[caller] = waiting + 1
            return
        self._waiting[caller] = 1
        self._ahead.pop(caller, None)
        self._served[caller] = max(self._served.get(caller, 0.0), self.now)

    def end(self, caller: str) -> None:
        """Note that an item of `caller` waits no longer."""
        waiting = self._waiting[caller] - 1
        if waiting:
            self._waiting[caller] = waiting
            return
        del self._waiting[caller]
        if not self._waiting:
            # Nobody waits, so nobody can be treated unfairly.
            self._served.clear()
            self._ahead.clear()
            self.now = 0.0
            return
        if self._served[caller] <= self.now:
            del self._served[caller]
        else:
            self._ahead[caller] = None
        for _ in range(_FORGOTTEN_AT_ONCE):
            first = next(iter(self._ahead), None)
            if first is None or self._served[first] > self.now:
                return
            del self._ahead[first], self._served[first]

    def charge(self, caller: str, cost: float, quantum: float) -> None:
        """Add the cost of what a waiting `caller` is being served, before `end`.

        Callers that come from now on begin a quantum later, at most: an endless series of new callers starves none.
        """
        served = self._served[caller]
        self._served[caller] = served + cost
        self.now = max(self.now, served + min(cost, quantum))

    def served(self, caller: str) -> float:
        """Return the virtual time of a caller, at which it is or would be waiting."""
        served = self._served.get(caller, 0.0)
        return served if caller in self._waiting else max(served, self.now)


class Turns(Generic[T]):
    """Waiting items of one priority in the order of service, first come, first served within each caller.

    Args:
        shares: Of the priority; several `Turns` may have the same.
    """

    __slots__ = ("_heap", "_lines", "_shares", "_ticket", "_tickets")

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lines: dict[str, OrderedDict[T, None]] = {}
        # Virtual time, ticket and caller. Callers that are served or that leave are put right when they come first.
        self._heap: list[tuple[float, int, str]] = []
        # Of equal times, the caller that has waited longest is first.
        self._tickets: dict[str, int] = {}
        self._ticket = 0

    def add(self, item: T, caller: str) -> None:
        """Add an item behind those of its caller. The caller's time counts from `Shares.begin`, which comes first."""
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = OrderedDict()
            self._ticket += 1
            self._tickets[caller] = self._ticket
            if self._heap:
                self._tidy()
            heappush(self._heap, (self._shares.served(caller), self._ticket, caller))
            if len(self._heap) > _MOST_STALE + 2 * len(self._lines):
                # Callers came and went, and none was served.
                self._heap = [entry for entry in self._heap if self._tickets.get(entry[2]) == entry[1]]
                heapify(self._heap)
        line[item] = None

    def remove(self, item: T, caller: str) -> None:
        """Remove an item."""
        line = self._lines[caller]
        del line[item]
        if not line:
            del self._lines[caller], self._tickets[caller]
            if not self._lines:
                self._heap.clear()

    def in_order(self, cost_of: Callable[[T], float]) -> Iterator[T]:
        """Yield the items in the order of service, as if each were served at its cost. They must not change meanwhile.

        The first costs no more the more items wait.
        """
        if len(self._lines) == 1:
            for line in self._lines.values():
                yield from line
            return
        self._tidy()
        heap, lines = self._heap.copy(), dict[str, Iterator[T]]()
        while heap:
            time, ticket, caller = heap[0]
            if self._tickets.get(caller) != ticket:
                heappop(heap)
                continue
            if caller not in lines:
                lines[caller] = iter(self._lines[caller])
                if time < (served := self._shares.served(caller)):
                    heapreplace(heap, (served, ticket, caller))
                    continue
            item = next(lines[caller], None)
            if item is None:
                heappop(heap)
                continue
            yield item
            heapreplace(heap, (time + cost_of(item), ticket, caller))

    def least(self) -> float:
        """Return the least virtual time of a caller with items; infinity if there is none."""
        self._tidy()
        return self._heap[0][0] if self._heap else math.inf

    def waiting(self, caller: str) -> int:
        """Return how many items of `caller` wait."""
        line = self._lines.get(caller)
        return 0 if line is None else len(line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def _tidy(self) -> None:
        """Make the first of the heap a caller at its present time."""
        heap = self._heap
        while heap:
            time, ticket, caller = heap[0]
            if self._tickets.get(caller) != ticket:
                heappop(heap)
            elif time < (served := self._shares.served(caller)):
                heapreplace(heap, (served, ticket, caller))
            else:
                return


class Backlog:
    """Sums of work to come by caller and priority, in whole units of any kind.

    Attributes:
        total: Of all callers, by priority.
    """

    __slots__ = ("_largest", "_of", "total")

    def __init__(self) -> None:
        self.total = [0] * PRIORITY_LEVELS
        self._of: list[dict[str, int]] = [{} for _ in range(PRIORITY_LEVELS)]
        # The largest item since there was none.
        self._largest = [0] * PRIORITY_LEVELS

    def add(self, caller: str, priority: int, amount: int) -> None:
        """Add an item's work; a negative amount removes work."""
        if not amount:
            return
        level = priority - 1
        of = self._of[level]
        if left := of.get(caller, 0) + amount:
            of[caller] = left
        else:
            del of[caller]
        total = self.total[level] = self.total[level] + amount
        if not total:
            self._largest[level] = 0
        elif amount > self._largest[level]:
            self._largest[level] = amount

    def before(self, caller: str, priority: int, own: int, debt: float = 0.0, most: float = math.inf) -> float:
        """Return an upper bound of the work that is served before the end of a new request.

        It is all that is more urgent, and the caller's own. Of each other caller of its priority it is at most as much
        as the caller is served until then, one item, and what the caller was served before the others.

        Args:
            caller: Whose request it is.
            priority: Of the request.
            own: Its work.
            debt: What the caller was served more than the others.
            most: Most work of one item that is served without a break.
        """
        level = priority - 1
        of = self._of[level]
        mine = of.get(caller, 0)
        others: float = self.total[level] - mine
        if others:
            of_each = mine + own + min(self._largest[level], most) + debt
            others = min(others, (len(of) - (caller in of)) * of_each)
        return sum(self.total[:level]) + mine + others
