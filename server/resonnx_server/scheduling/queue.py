"""What waits for a model, by priority and in order of arrival, and those of one shape among it. Pure.

Whatever is asked or changed costs the same however many wait: lanes and the event loop do it under the device's lock.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Priority levels as Triton counts them: 1 is the most urgent. A request that names none gets the middle.
PRIORITY_LEVELS: Final = 8
DEFAULT_PRIORITY: Final = 4


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One request, or the rows of it that are in a batch, or still wait for one.

    Attributes:
        rows: Rows that it takes; of a request that waits, any number.
        arrival_ns: Monotonic time of arrival.
        deadline_ns: Monotonic time after which nobody wants the answer.
        shape: Entries share a batch only if equal.
        priority: 1 (first) to PRIORITY_LEVELS.
        found_idle: Nothing waited or ran when it came, so others are not why it waits.
    """

    payload: T
    rows: int
    arrival_ns: int
    deadline_ns: int | None = None
    shape: Hashable = None
    priority: int = DEFAULT_PRIORITY
    start: int = 0
    """The first of the request's rows that it holds."""
    found_idle: bool = False


@dataclass(slots=True)
class Batch(Generic[T]):
    """Entries to run together at batch size `size` (>= their rows), and entries that ran out of time."""

    entries: list[Entry[T]]
    size: int
    expired: list[Entry[T]]

    @property
    def rows(self) -> int:
        """Rows that carry requests; the rest of `size` is padding."""
        return sum(entry.rows for entry in self.entries)


# Ordered sets. Not plain dicts: finding the first key of one walks over all that were taken from its front before.
_Level = OrderedDict[Entry[T], None]


class WaitingQueue(Generic[T]):
    """Entries by priority, first come, first served within one."""

    def __init__(self) -> None:
        self._levels: list[_Level[T]] = _no_entries()
        # Of few shapes there may be many entries, and of many shapes few each: levels as they are needed.
        self._shapes: dict[Hashable, dict[int, _Level[T]]] = {}
        self._rows = [0] * PRIORITY_LEVELS
        self.rows = 0

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __iter__(self) -> Iterator[Entry[T]]:
        """Yield all, in the order in which they are served. Nothing may be added or removed meanwhile."""
        for level in self._levels:
            yield from level

    def __contains__(self, entry: Entry[T]) -> bool:
        return entry in self._levels[entry.priority - 1]

    def add(self, entry: Entry[T]) -> None:
        """Let it wait behind all of its priority."""
        self._levels[entry.priority - 1][entry] = None
        self._shapes.setdefault(entry.shape, {}).setdefault(entry.priority, OrderedDict())[entry] = None
        self._count_rows(entry, entry.rows)

    def remove(self, *entries: Entry[T]) -> None:
        """Take out of the queue what waits in it."""
        for entry in entries:
            del self._levels[entry.priority - 1][entry]
            shape = self._shapes[entry.shape]
            del shape[entry.priority][entry]
            if not shape[entry.priority]:
                del shape[entry.priority]
            if not shape:
                del self._shapes[entry.shape]
            self._count_rows(entry, -entry.rows)

    def shrink(self, entry: Entry[T], rows: int) -> None:
        """Take the first `rows` of one that waits; with the others it keeps its place."""
        entry.rows -= rows
        self._count_rows(entry, -rows)

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        entries = list(self)
        self._levels, self._shapes = _no_entries(), {}
        self._rows, self.rows = [0] * PRIORITY_LEVELS, 0
        return entries

    def alike(self, shape: Hashable) -> Iterator[Entry[T]]:
        """Yield those of one shape, in the order in which they are served. Nothing may change meanwhile."""
        levels = self._shapes.get(shape, {})
        for priority in sorted(levels):
            yield from levels[priority]

    def first_of_each(self) -> list[Entry[T]]:
        """Return who is next of each priority at which anybody waits."""
        return [next(iter(level)) for level in self._levels if level]

    def first_level(self) -> Iterator[Entry[T]]:
        """Yield those of the first priority at which anybody waits."""
        return iter(next(filter(None, self._levels), ()))

    def rows_before(self, priority: int) -> int:
        """Rows of all that would be served before an entry of this priority that came now."""
        return sum(self._rows[:priority])

    def _count_rows(self, entry: Entry[T], rows: int) -> None:
        self._rows[entry.priority - 1] += rows
        self.rows += rows


def _no_entries() -> list[_Level[T]]:
    return [OrderedDict() for _ in range(PRIORITY_LEVELS)]
