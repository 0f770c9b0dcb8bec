"""Which loads share the cores, and which one has them alone: decided here, and carried out in loads.py.

    begin ──→ sharing ──→ waiting ──→ alone ──→ end
                 └───────────────────────────────┘

A measurement beside another load's work would be of both. So a load that has to measure waits until no other one works,
and has the cores until it ends. Those that wait do no work, so no two can wait for each other. While one waits, no
further load begins, so that it waits for the loads under way only; several have their turns in the order in which they
asked.

Whether a load has to measure shows late. So loads begin side by side only after one that served without measuring.
After one that measured, they come one after the other: with an empty cache, none waits for the next, which may take
long.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

L = TypeVar("L", bound=Hashable)


class Cores(Generic[L]):
    """The loads under way. Not thread-safe; nothing here waits.

    Args:
        most: Loads that may share the cores, 1 or more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sharing: set[L] = set()
        self._waiting: deque[L] = deque()
        self._alone: L | None = None
        # The last load that served found all in the cache.
        self._is_cached = False

    @property
    def working(self) -> list[L]:
        """The loads that may work now."""
        return [*self._sharing, *(() if self._alone is None else (self._alone,))]

    @property
    def under_way(self) -> list[L]:
        """The loads that have begun and neither ended nor were passed."""
        return [*self.working, *self._waiting]

    @property
    def may_begin(self) -> bool:
        """Whether a further load may begin."""
        most = self._most if self._is_cached else 1
        return self._alone is None and not self._waiting and len(self._sharing) < most

    def begin(self, load: L) -> None:
        """Let a load work beside others."""
        assert self.may_begin
        self._sharing.add(load)

    def ask(self, load: L) -> None:
        """Let a load wait until it has the cores alone; one that was passed as well."""
        assert load != self._alone
        assert load not in self._waiting
        self._sharing.discard(load)
        self._waiting.append(load)

    def end(self, load: L, *, measured: bool | None = None) -> None:
        """Forget a load.

        Args:
            load: It has ended, or the others pass it, as it does nothing.
            measured: Whether it had to measure, if it serves.
        """
        if measured is not None:
            self._is_cached = not measured
        self._sharing.discard(load)
        if load in self._waiting:
            self._waiting.remove(load)
        if self._alone == load:
            self._alone = None

    def next_alone(self) -> L | None:
        """Give the cores to the first load that waits, if none works, and return it."""
        if self._sharing or self._alone is not None or not self._waiting:
            return None
        self._alone = self._waiting.popleft()
        return self._alone
