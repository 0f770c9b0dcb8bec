"""How long a picture should take to decode, told by its format and size before any of it is."""

import time
from collections.abc import Callable
from typing import Final

from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.scheduling.freshness import Freshness

# What differs in what a pixel costs: the format, a JPEG file of several passes, by how much it is reduced.
Kind = tuple[str, bool, int]

# A picture without pixels would take as long as so many: opening it, and the way there and back.
_OVERHEAD_PIXELS: Final = 16_384
# Of which nothing is known until more than so many pixels have told it: they count as if they took no time.
_UNKNOWN_PIXELS: Final = 1_000_000
# Nobody's picture can make others of its format seem slower than this: five times what slow ones take.
_MOST_NS: Final = 200.0
# What was learnt from more pixels than these is replaced by what comes, but no picture replaces more than its part.
_MOST_PIXELS: Final = 20_000_000
_MOST_OF_ONE: Final = _MOST_PIXELS // 4


class DecodeCost:
    """Follows how many ns a pixel takes, for each format by itself. Event loop only.

    What was learnt fades towards nothing when no more pictures of the format come: those who are refused by it cannot
    teach otherwise.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._kinds: dict[Kind, _Known] = {}

    def expected_ns(self, header: Header, divisor: int = 1) -> float:
        """Return how long a thread should take for a picture reduced so; 0 where nothing is known."""
        known = self._kinds.get(_kind(header, divisor))
        if known is None:
            return 0.0
        known.fade()
        return _work(header) * known.ns / (known.pixels + _UNKNOWN_PIXELS)

    def learn(self, header: Header, ns: int, divisor: int = 1) -> None:
        """Take note that a thread took so long for a picture."""
        pixels = _work(header)
        known = self._kinds.setdefault(_kind(header, divisor), _Known(self._clock))
        known.learn(pixels, min(ns, _MOST_NS * pixels))


def _work(header: Header) -> int:
    return header.pixels + _OVERHEAD_PIXELS


def _kind(header: Header, divisor: int) -> Kind:
    return header.format, header.progressive, divisor


class _Known:
    """Pixels decoded lately, and the time that they took."""

    __slots__ = ("_age", "ns", "pixels")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._age = Freshness(clock)
        self.pixels = 0.0
        self.ns = 0.0

    def learn(self, pixels: int, ns: float) -> None:
        self.fade()
        counted = min(pixels, _MOST_OF_ONE)
        self._keep(min(1.0, (_MOST_PIXELS - counted) / self.pixels) if self.pixels else 1.0)
        self.pixels += counted
        self.ns += ns * counted / pixels
        self._age.renew()

    def fade(self) -> None:
        self._keep(self._age.kept())

    def _keep(self, share: float) -> None:
        self.pixels *= share
        self.ns *= share
