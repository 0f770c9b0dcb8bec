"""Predicts the time to decode a picture from its format and size, learnt from decoded pictures."""

import time
from collections.abc import Callable
from typing import Final

from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.scheduling.latency import Freshness

# Format, whether it is a progressive JPEG file, and the divisor of its reduction: these decide the time per pixel.
Kind = tuple[str, bool, int]

# Fixed time of a picture, in pixels.
_OVERHEAD_PIXELS: Final = 16_384
# The average of a new kind starts with so many pixels of 0 ns.
_UNKNOWN_PIXELS: Final = 1_000_000
# Upper limit of a measurement in ns per pixel, five times that of slow pictures: one caller cannot spoil predictions.
_MOST_NS: Final = 200.0
# Size of the sliding window in pixels, and the largest share of one picture.
_MOST_PIXELS: Final = 20_000_000
_MOST_OF_ONE: Final = _MOST_PIXELS // 4


class DecodeCost:
    """Averages the ns per pixel of each kind of picture. Event loop only.

    An average fades to 0 while no pictures of its kind are decoded: one that is too high would refuse them all.

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._kinds: dict[Kind, _Known] = {}

    def expected_ns(self, header: Header, divisor: int = 1) -> float:
        """Return the predicted time of a thread for a picture, in ns; 0 for an unknown kind."""
        known = self._kinds.get(_kind(header, divisor))
        if known is None:
            return 0.0
        known.fade()
        return _work(header) * known.ns / (known.pixels + _UNKNOWN_PIXELS)

    def learn(self, header: Header, ns: int, divisor: int = 1) -> None:
        """Add a measurement: a thread took `ns` for a picture."""
        pixels = _work(header)
        kind = _kind(header, divisor)
        if (known := self._kinds.get(kind)) is None:
            known = self._kinds[kind] = _Known(self._clock)
        known.learn(pixels, min(ns, _MOST_NS * pixels))


def _work(header: Header) -> int:
    return header.width * header.height + _OVERHEAD_PIXELS


def _kind(header: Header, divisor: int) -> Kind:
    return header.format, header.progressive, divisor


class _Known:
    """Recently decoded pixels, and their time."""

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
