"""How long what was learnt holds: as long as evidence comes, and some time beyond; then it fades."""

import math
from collections.abc import Callable
from typing import Final

_HOLDS_NS: Final = 10_000_000_000
_FADES_IN_NS: Final = 5_000_000_000


class Freshness:
    """The age of something learnt.

    It must not last without evidence: what refuses everybody who could teach otherwise would do so for ever. Nor may
    it fade beside evidence, however often or rarely anybody asks.

    Args:
        clock: Monotonic ns.
    """

    __slots__ = ("_clock", "_holds_until_ns")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._holds_until_ns = clock() + _HOLDS_NS

    def renew(self) -> None:
        """Evidence came."""
        self._holds_until_ns = self._clock() + _HOLDS_NS

    def kept(self) -> float:
        """Return the share of what is known that still holds, 0..1; the rest is to be forgotten now.

        Time that an answer counted is not counted by the next one.
        """
        now = self._clock()
        kept = self._share(now)
        self._holds_until_ns = max(self._holds_until_ns, now)
        return kept

    def share(self) -> float:
        """Return the same to somebody who forgets nothing, but only tells what is known."""
        return self._share(self._clock())

    def _share(self, now_ns: int) -> float:
        return math.exp(min(0, self._holds_until_ns - now_ns) / _FADES_IN_NS)
